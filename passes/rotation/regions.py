"""Regions of a residual stream: tensors that are sums of each other, who writes to them, and who reads them."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_graphsurgeon as gs

from pruneopt.analysis.infer import ConstantUse
from pruneopt.passes.rotation.norms import Norm


@dataclass(eq=False)
class Region:
    """Tensors that are sums of each other: the same change of basis holds for all, and all are centred or none.

    Attributes:
        writes: constants that enter, and the dimension with the atom.
        norms: those that read it.
        made_by: those whose outputs enter.
        readers: the nodes that sum over the atom.
        plain: nothing on the way would change a constant vector.
    """

    writes: list[tuple[ConstantUse, int]] = field(default_factory=list)
    norms: list[Norm] = field(default_factory=list)
    made_by: list[Norm] = field(default_factory=list)
    readers: list[gs.Node] = field(default_factory=list)
    plain: bool = True

    @property
    def centred(self) -> bool:
        """Whether its means are taken off where it is written, because all that reads it takes them off."""
        return any(norm.centred for norm in self.norms)


class Areas:
    """Tensors in regions, by name; joined where they are sums of each other."""

    def __init__(self) -> None:
        self._of: dict[str, Region] = {}

    def named(self, name: str) -> Region:
        """That of the tensor of a name."""
        return self._of.setdefault(name, Region())

    def of(self, tensor: gs.Tensor) -> Region:
        """That of a tensor."""
        return self.named(str(tensor.name))

    def join(self, tensors: list[gs.Tensor]) -> Region:
        """Makes one region of theirs, and returns it."""
        whole = self.of(tensors[0])
        for tensor in tensors[1:]:
            other = self.of(tensor)
            if other is whole:
                continue
            whole.writes += other.writes
            whole.norms += other.norms
            whole.made_by += other.made_by
            whole.readers += other.readers
            whole.plain = whole.plain and other.plain
            self._of = {n: whole if r is other else r for n, r in self._of.items()}
        return whole

    def all(self) -> list[Region]:
        """Each once."""
        return list({id(r): r for r in self._of.values()}.values())
