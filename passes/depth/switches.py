"""The whole model with a switch at each block: nothing is removed, and any subset can be bypassed.

Built without the rewrite: where a block only adds to its entry, its addends become zeros; elsewhere the entry is
selected in the exit's place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.analysis.blocks import Block, Blocks
from pruneopt.arrays import Array, Feeds
from pruneopt.model import Model
from pruneopt.passes.depth.bypass import NOTHING, Amends
from pruneopt.passes.rewriting.edits import make_instead
from pruneopt.passes.rewriting.names import Names

Switch = Callable[[Block], gs.Tensor]


@dataclass(frozen=True)
class Bypassed:
    """The claim that a rewrite equals the whole model with these blocks switched off.

    Attributes:
        blocks: of the model before the rewrite.
        dropped: the blocks that went.
        amends: what makes up for them.
    """

    blocks: Blocks
    dropped: Sequence[Block]
    amends: Amends = NOTHING

    def references(self) -> Iterator[tuple[Model, Feeds]]:
        """The whole model, switched, for every observed input size."""
        yes = gs.Constant(Names(self.blocks.analysis.model.graph).new("pruneopt_off"), np.array(True))
        model = switched(self.blocks, self.dropped, lambda block: yes, self.amends)
        for feeds in self.blocks.analysis.seen.feeds:
            yield model, feeds

    def count(self) -> int:
        """Number of blocks that went."""
        return len(self.dropped)

    def kept(self, name: str, array: Array, run: int) -> Array | None:
        """Inner tensors stay as they are; nothing is said of shape arithmetic."""
        known = name in self.blocks.analysis.seen.values
        return None if known else array


def switched(blocks: Blocks, off: Iterable[Block], switch: Switch, amends: Amends = NOTHING) -> Model:
    """A copy of the analysed model in which each block of `off` is bypassed where its switch is true.

    Args:
        blocks: of the model.
        off: blocks to put a switch at; they may overlap.
        switch: the boolean scalar of a block.
        amends: what makes up for blocks that are switched off.
    """
    insert = Inserter(blocks, amends)
    for block in off:
        if block.branches and block.exit not in amends.maps:
            for total, addend in block.branches:
                insert.silence(total, addend, switch(block))
        else:
            insert.select(block, switch(block))
    return insert.finish()


class Inserter:
    """Puts nodes around those of a copy."""

    def __init__(self, blocks: Blocks, amends: Amends) -> None:
        self.flow = blocks.flow
        self.amends = amends
        self.model = blocks.analysis.model.copy()
        amends.put_weights(self.model)
        self.names = Names(self.model.graph)
        self.nodes: list[gs.Node] = list(self.model.graph.nodes)
        self.tensors = self.model.graph.tensors()
        self.before: dict[int, list[gs.Node]] = {}
        self.after: dict[int, list[gs.Node]] = {}
        self._place: list[gs.Node] = []

    def silence(self, total: str, addend: str, off: gs.Tensor) -> None:
        """a + b -> a + where(off, 0, b)"""
        place = self.flow.maker[total]
        node, self._place = self.nodes[place], self.before.setdefault(place, [])
        slot = next(i for i, t in enumerate(self.flow.nodes[place].inputs) if t.name == addend)
        zero: gs.Tensor = self.constant(np.zeros((), np.float32))
        if self.model.opset() >= 15:
            zero = self.node("CastLike", [zero, node.inputs[slot]])
        node.inputs[slot] = self.node("Where", [off, zero, node.inputs[slot]])

    def select(self, block: Block, off: gs.Tensor) -> None:
        """x -> where(off, entry, x), or what the amends put in the entry's place"""
        place, target = self.flow.maker[block.exit], self.tensors[block.exit]
        self._place = self.after.setdefault(place, [])
        inner = gs.Variable(self.names.new(f"{block.exit}//whole"), target.dtype)
        make_instead(target, inner)  # what the node itself makes, or the switch put behind it before
        entry = self.tensors[block.entry]
        instead = (
            self.amends.maps[block.exit].insert(self, entry) if block.exit in self.amends.maps else entry
        )
        switch = self.names.new("pruneopt_switch")
        self._place.append(gs.Node("Where", switch, {}, [off, instead, inner], [target]))

    def node(self, op: str, inputs: Sequence[gs.Tensor], **attributes: Any) -> gs.Variable:
        """A node at the current place; returns its output."""
        name = self.names.new("pruneopt_switch")
        made = gs.Variable(name)
        self._place.append(gs.Node(op, name, attributes, list(inputs), [made]))
        return made

    def constant(self, value: Array) -> gs.Constant:
        """A constant of a fresh name."""
        return gs.Constant(self.names.new("pruneopt_switch"), value)

    def finish(self) -> Model:
        """The model with the new nodes in their places."""
        whole: list[gs.Node] = []
        for place, node in enumerate(self.nodes):
            whole += [*self.before.get(place, []), node, *self.after.get(place, [])]
        self.model.graph.nodes = whole
        return self.model
