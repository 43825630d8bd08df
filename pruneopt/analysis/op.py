"""What a rule sees of a node, and all it may say: equalities, contractions, statistics, witnesses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.analysis.axes import Axis, Reason, Size, concat, couple, freeze, product, show
from pruneopt.analysis.relation import Relation
from pruneopt.analysis.unify import Clash, unify
from pruneopt.analysis.witness import Entry, Fixed, Indices, Place, Scaled, Sizes, Style, Witness
from pruneopt.arrays import Array

Axes = list[Axis]


@dataclass(frozen=True, eq=False)
class Use:
    """Dimension `dim` of input `slot` of `node`: contracted, or under a statistic.

    Operands of one contraction have the same `label`; masking one of them masks the sum. A removed entry
    of a quantised operand is not 0 but the value at input `zero`, its zero point.
    """

    node: gs.Node
    slot: int
    dim: int
    axis: Axis
    label: str = ""
    zero: int = -1


@dataclass(eq=False)
class Op:
    """A node under analysis.

    Attributes:
        node: the graph node.
        inputs: axes of each input, None where absent or of unknown shape.
        outputs: axes of each output, None where of unknown shape.
        constants: value of each input that is a constant or static, None otherwise.
        opset: version of the node's operator set.
        runs: number of observations, the length of every `Size`.
        axes_of: axes of a variable of the graph or of a body.
        pointers: of inputs that hold positions along an axis, that axis; by slot.

    The rest is what the rule has said so far; `infer.Analysis` says what each is.
    """

    node: gs.Node
    inputs: list[Axes | None]
    outputs: list[Axes | None]
    constants: list[Array | None]
    opset: int
    runs: int
    axes_of: Callable[[gs.Tensor], Axes | None]
    pointers: Mapping[int, Axis]
    followed: set[int] = field(default_factory=set)
    points: dict[int, Axis] = field(default_factory=dict)
    chosen: list[tuple[Axis, int]] = field(default_factory=list)
    restated: dict[str, Axis] = field(default_factory=dict)
    contractions: list[Use] = field(default_factory=list)
    statistics: list[Use] = field(default_factory=list)
    witnesses: list[Witness] = field(default_factory=list)
    macs: list[tuple[Axis, ...]] = field(default_factory=list)
    weights: set[int] = field(default_factory=set)

    # --- reading -----------------------------------------------------------------------------------

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute's value."""
        return self.node.attrs.get(name, default)

    def input(self, slot: int) -> Axes | None:
        """Axes of an input, None where it is absent."""
        return self.inputs[slot] if slot < len(self.inputs) else None

    def axes(self, slot: int) -> Axes:
        """Axes of an input; none where it is absent."""
        return self.input(slot) or []

    def result(self, index: int = 0) -> Axes:
        """Axes of an output; none where it is absent."""
        return self.outputs[index] or []

    def present(self, slot: int) -> bool:
        """Whether the node has an input there."""
        return slot < len(self.node.inputs) and bool(self.node.inputs[slot].name)

    def place(self, name: str, slot: int) -> Place:
        """Where a parameter lives in this opset: the attribute `name`, or the input at `slot`."""
        return name if name in self.node.attrs else slot

    def value(self, name: str, slot: int) -> list[int] | None:
        """A parameter's integers, from attribute or input; None where absent or not static."""
        self.parameter(slot)
        if name in self.node.attrs:
            found = self.node.attrs[name]
            return list(found) if isinstance(found, Sequence) else [int(found)]
        known = self.constants[slot] if slot < len(self.constants) else None
        return None if known is None else [int(v) for v in np.asarray(known).reshape(-1)]

    def parameter(self, *slots: int) -> None:
        """Declare that these inputs hold parameters: their own entries stay what and where they are."""
        for slot in slots:
            self.freeze(self.axes(slot), "a list of parameters")

    # --- building axes -----------------------------------------------------------------------------

    def fresh(self, size: int | Size) -> Axis:
        """A new atom."""
        return Axis((size,) * self.runs if isinstance(size, int) else size)

    def product(self, axes: Sequence[Axis]) -> Axis:
        """The row-major product."""
        return product(axes, self.runs)

    def concat(self, axes: Sequence[Axis]) -> Axis:
        """The concatenation."""
        return concat(axes)

    # --- asserting ---------------------------------------------------------------------------------

    def reason(self, text: str) -> Reason:
        """A reason that names this node."""
        return Reason(text, f"{self.node.op} '{self.node.name or self.node.outputs[0].name}'")

    def equal(self, a: Axis, b: Axis) -> None:
        """Assert that two axes are the same; without common refinement both are frozen."""
        try:
            unify(a, b)
        except Clash as clash:
            why = self.reason(f"{show(a)} and {show(b)} cannot be aligned: {clash}")
            freeze(a, why)
            freeze(b, why)

    def equal_all(self, a: Sequence[Axis], b: Sequence[Axis]) -> None:
        """Assert equality dimension by dimension."""
        for x, y in zip(a, b, strict=True):
            self.equal(x, y)

    def broadcast(self, terms: Sequence[Axes]) -> None:
        """Assert equality aligned from the right wherever the sizes agree; size 1 is a broadcast."""
        longest = max(terms, key=len)
        for term in terms:
            for x, y in zip(reversed(term), reversed(longest), strict=False):
                if x.size == y.size:
                    self.equal(x, y)
        for i in range(1, len(longest) + 1):  # the longest term may itself have a 1 where others do not
            wide = [t[-i] for t in terms if len(t) >= i and set(t[-i].size) != {1}]
            for x in wide[1:]:
                if x.size == wide[0].size:
                    self.equal(wide[0], x)
                else:
                    self.freeze([wide[0], x], "unequal broadcast")

    def freeze(self, axes: Sequence[Axis], text: str) -> None:
        """Forbid any change of these axes."""
        for axis in axes:
            freeze(axis, self.reason(text))

    def freeze_all(self, text: str) -> None:
        """Forbid any change of this node's inputs and outputs."""
        for term in (*self.inputs, *self.outputs):
            self.freeze(term or [], text)

    def contract(self, slot: int, dim: int, label: str = "", zero: int = -1) -> None:
        """Input `slot` is summed over dimension `dim`: a removed entry is zero (or input `zero`)."""
        term = self.input(slot)
        if term is not None:
            dim %= len(term)
            self.contractions.append(Use(self.node, slot, dim, term[dim], label, zero))

    def statistic(self, slot: int, dim: int, text: str, over: Axis | None = None) -> None:
        """The result depends on all entries of dimension `dim` at once, or of `over`, a part of it."""
        term = self.inputs[slot]
        if term is not None:
            couple(over or term[dim], self.reason(text))
            self.statistics.append(Use(self.node, slot, dim, term[dim]))

    def sizes(
        self,
        place: Place,
        entries: Sequence[Entry | Axis],
        *,
        scalar: bool = False,
        style: Style = Style.EXACT,
        instead_of: str = "",
        also: Sequence[Axis] = (),
    ) -> None:
        """Declare that `place` holds the sizes of these axes (see `witness.Sizes`)."""
        if isinstance(place, int):
            self.parameter(place)
        whole = tuple((e,) if isinstance(e, Axis) else e for e in entries)
        self.witnesses.append(Sizes(self.node, place, whole, scalar, style, instead_of, tuple(also)))

    def positions(self, place: Place, axis: Axis) -> None:
        """Declare that `place` holds positions along `axis`."""
        if isinstance(place, int):
            self.parameter(place)
        self.witnesses.append(Indices(self.node, place, axis))

    def fixed(self, place: str, value: float, *axes: Axis) -> None:
        """Declare that attribute `place`, absent here, defaults to `value` for these axes' sizes."""
        self.witnesses.append(Fixed(self.node, place, value, axes))

    def scaled(self, place: Place | None, axis: Axis, power: float, default: float = 0.0) -> None:
        """Declare that a number changes with the size of `axis` (see `witness.Scaled`)."""
        self.witnesses.append(Scaled(self.node, place, axis, power, default))

    def count_macs(self, *axes: Axis) -> None:
        """Declare a cost of the product of these axes' sizes, in multiply-accumulates."""
        self.macs.append(axes)

    def relate(
        self,
        text: str,
        *,
        macs: bool = False,
        why: str = "",
        zeros: Mapping[int, int] | None = None,
        **sizes: int,
    ) -> dict[str, Axis]:
        """Assert a rule in the notation of `analysis.notation`; sizes of factors may be given by name.

        Args:
            text: the rule.
            macs: it multiplies and adds: count them.
            why: what statistic runs over the axes marked `~`.
            zeros: of quantised operands, one to mask and the input that holds its zero point.
            sizes: sizes of factors.

        Returns:
            The axis of every name.
        """
        return Relation(self, text, sizes, why, zeros or {}).assert_all(macs)
