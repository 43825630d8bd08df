"""One loaded model that can be run with any subset of blocks bypassed, and what that does to its outputs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import cached_property

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.analysis.blocks import Block, Blocks
from pruneopt.arrays import Array, Feeds
from pruneopt.passes.context import Context
from pruneopt.passes.depth.switches import switched
from pruneopt.passes.rewriting.names import Names
from pruneopt.passes.runtime import Session
from pruneopt.passes.statistics.damage import Outputs, Yardstick
from pruneopt.passes.statistics.stream import valid_tokens


class Study:
    """What criteria see of the blocks.

    Attributes:
        blocks: all blocks of the model.
        units: the blocks among which to choose.
        batches: inputs to measure on.
    """

    def __init__(
        self, blocks: Blocks, units: Sequence[Block], context: Context, batches: Sequence[Feeds]
    ) -> None:
        self.blocks = blocks
        self.units = list(units)
        self.batches = list(batches)
        self.context = context
        names = Names(blocks.analysis.model.graph)
        self._flags = {u.name: gs.Variable(names.new("pruneopt_off"), np.dtype(bool), []) for u in units}
        self._known: dict[frozenset[str], float] = {}
        self._scores: dict[str, dict[str, float]] = {}

    def damage(self, dropped: Collection[Block]) -> float:
        """How far the outputs move when these blocks are bypassed at once; see `statistics.damage`."""
        key = frozenset(block.name for block in dropped)
        if key not in self._known:
            self._known[key] = self._yardstick.damage(self._outputs(key))
        return self._known[key]

    def once(self, name: str, criterion: Callable[[Study], dict[str, float]]) -> dict[str, float]:
        """What a criterion says of all units; asked once."""
        if name not in self._scores:
            self._scores[name] = criterion(self)
        return self._scores[name]

    def ends(self) -> list[dict[str, tuple[Array, Array]]]:
        """Per batch: rows of each unit's entry and exit, shape [positions, features], padding left out."""
        names = sorted({n for u in self.units for n in (u.entry, u.exit)})
        session = self.context.session(self.blocks.analysis.model, names)
        found = []
        for feeds in self.batches:
            values, valid = session.run(feeds), valid_tokens(feeds)
            found.append(
                {
                    u.name: (
                        rows_of(values[u.entry], self.features(u), valid),
                        rows_of(values[u.exit], self.features(u), valid),
                    )
                    for u in self.units
                }
            )
        return found

    def features(self, block: Block) -> int:
        """The dimension of a block's entry that its weights contract over; of several that of most weights."""
        return feature_dimension(self.blocks, block)

    @cached_property
    def _yardstick(self) -> Yardstick:
        return Yardstick.of(self.blocks.analysis.model.graph, self._outputs(frozenset()))

    @cached_property
    def _session(self) -> Session:
        model = switched(self.blocks, self.units, lambda block: self._flags[block.name])
        model.graph.inputs = [*model.graph.inputs, *self._flags.values()]
        return self.context.session(model, self._main)

    @cached_property
    def _main(self) -> list[str]:
        """The outputs that blocks lead to; caches, which have no say, are left out."""
        sides = {name for block in self.blocks.all() for name in block.sides}
        return [t.name for t in self.blocks.analysis.model.graph.outputs if t.name not in sides]

    def _outputs(self, dropped: Collection[str]) -> Outputs:
        flags = {self._flags[u.name].name: np.array(u.name in dropped) for u in self.units}
        found = [self._session.run({**feeds, **flags}) for feeds in self.batches]
        return [
            {n: v for n, v in each.items() if isinstance(v, np.ndarray) and v.dtype.kind in "fV"}
            for each in found
        ]


def feature_dimension(blocks: Blocks, block: Block) -> int:
    """The dimension of a block's entry that its weights contract over; the last where none does."""
    from pruneopt.analysis.axes import atoms

    axes = blocks.analysis.axes[block.entry]
    inside = {id(blocks.flow.nodes[i]) for i in block.nodes}
    weights = [u for u in blocks.analysis.uses if u.weight and id(u.node) in inside]
    sizes = [0] * len(axes)
    for dim, axis in enumerate(axes):
        own = set(atoms(axis)) if axis.static else set()
        sizes[dim] = sum(1 for u in weights if any(own & set(atoms(a)) for a in u.axes))
    most = max(sizes, default=0)
    return len(sizes) - 1 - sizes[::-1].index(most) if most else len(sizes) - 1


def rows_of(array: Array, dim: int, valid: Array | None = None) -> Array:
    """Features last, everything else as rows; rows of padding left out. Shape [rows, features], float64."""
    rows = np.moveaxis(array, dim, -1).reshape(-1, array.shape[dim]).astype(np.float64)
    return rows[valid] if valid is not None and len(valid) == len(rows) else rows
