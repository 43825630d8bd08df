"""The rewrite: what reads a block's exit reads its entry, and what is dead then goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.analysis.blocks import Block, Blocks, bypass_of
from pruneopt.analysis.lengths import Source
from pruneopt.arrays import Array
from pruneopt.model import Model
from pruneopt.passes.exact.identities import drop_dead
from pruneopt.passes.rewriting.edits import make_instead, place_of, read_instead
from pruneopt.passes.rewriting.names import Names
from pruneopt.passes.rewriting.shrink import twins

if TYPE_CHECKING:
    from pruneopt.passes.depth.switches import Inserter


class Map(Protocol):
    """What takes the place of dropped blocks."""

    def nodes(self, entry: gs.Tensor, name: str) -> list[gs.Node]:
        """Nodes that compute it from the blocks' entry; the last one makes the tensor `name`."""

    def insert(self, at: Inserter, entry: gs.Tensor) -> gs.Tensor:
        """The same in other words, for the model that the result is compared with."""


@dataclass(frozen=True)
class Amends:
    """What makes up for dropped blocks.

    Attributes:
        maps: exit of a dropped block -> what is computed from its entry instead of it.
        weights: (place of a node, input) -> the weight that it gets; layers that were merged into it are in there.
    """

    maps: Mapping[str, Map] = field(default_factory=dict)
    weights: Mapping[tuple[int, int], Array] = field(default_factory=dict)

    def put_weights(self, model: Model) -> None:
        """Set the weights in a copy of the model whose nodes are still in their places."""
        names = Names(model.graph)
        for (place, slot), value in self.weights.items():
            node = model.graph.nodes[place]
            old = node.inputs[slot]
            name = old.name if len(old.outputs) == 1 else names.new(f"{old.name}_merged")
            node.inputs[slot] = gs.Constant(name, np.asarray(value, old.dtype))  # a scalar stays an array


NOTHING = Amends()


def bypass(blocks: Blocks, dropped: Sequence[Block], amends: Amends = NOTHING) -> Model:
    """A copy of the analysed model without the dropped blocks.

    Inputs and outputs of the graph that serve the dropped blocks alone go with them.

    Args:
        blocks: of the model.
        dropped: in graph order, none inside another.
        amends: what makes up for them.
    """
    model = blocks.analysis.model.copy()
    amends.put_weights(model)
    graph, names = model.graph, Names(model.graph)
    sides = {name for block in dropped for name in block.sides}
    # Without a change of the outputs the signature stays, inputs that nothing reads included.
    unused = {name for block in dropped for name in block.inputs} if sides else set()
    _tell_shapes(model, blocks, blocks.removed(dropped), unused, names)
    tensors = graph.tensors()
    around = bypass_of(dropped)
    for block in dropped:
        entry = tensors[target(block.exit, around)]
        if block.exit in amends.maps:
            entry = _mapped(graph, amends.maps[block.exit], entry, names.new(f"{block.exit}_mapped"))
        _put(graph, tensors[block.exit], entry, names)
    graph.outputs = [t for t in graph.outputs if t.name not in sides]
    drop_dead(graph)
    graph.inputs = [t for t in graph.inputs if t.name not in unused or t.outputs]
    return model


def target(name: str, around: dict[str, str]) -> str:
    """What is read in place of a tensor in the end: entries of dropped blocks may be exits of dropped blocks."""
    while name in around:
        name = around[name]
    return name


def _mapped(graph: gs.Graph, each: Map, entry: gs.Tensor, name: str) -> gs.Tensor:
    """The result of a map, whose nodes come right behind what makes its entry."""
    fresh = each.nodes(entry, name)
    maker = entry.inputs[0] if entry.inputs else None
    place = next((i + 1 for i, node in enumerate(graph.nodes) if node is maker), 0)
    graph.nodes[place:place] = fresh
    return fresh[-1].outputs[0]


def _put(graph: gs.Graph, old: gs.Tensor, new: gs.Tensor, names: Names) -> None:
    """`new` in place of `old` for every reader; an output of the graph keeps its name."""
    read_instead(old, new)
    for body in graph.subgraphs(recursive=True):
        body.outputs = [new if t is old else t for t in body.outputs]
    if any(t is old for t in graph.outputs):
        spare = gs.Variable(names.new(f"{old.name}_dropped"), old.dtype)
        make_instead(old, spare)
        graph.nodes.append(gs.Node("Identity", names.new(f"{old.name}_kept"), {}, [new], [old]))


def _tell_shapes(model: Model, blocks: Blocks, removed: set[int], gone: set[str], names: Names) -> None:
    """Shapes of tensors and inputs that go are read off inputs that stay."""
    flow, twin = blocks.flow, twins(blocks.analysis.model, model)
    inputs = {t.name: t for t in model.graph.inputs if t.name not in gone}
    places = {id(node): i for i, node in enumerate(flow.nodes)}
    for told in blocks.told:
        source = told.node.inputs[0].name
        if places[id(told.node)] not in removed and (source in gone or flow.maker.get(source) in removed):
            kept = [
                next((s for s in each if isinstance(s, int) or s[0] in inputs), None) for each in told.sources
            ]
            if None not in kept:
                _retell(model.graph, twin[id(told.node)], [s for s in kept if s is not None], inputs, names)


def _retell(
    graph: gs.Graph, node: gs.Node, sources: Sequence[Source], inputs: dict[str, gs.Tensor], names: Names
) -> None:
    """Shape(t) -> Concat of sizes, each a constant or an entry of the Shape of an input."""
    out = node.outputs[0]
    fresh, parts = [], []
    for source in sources:
        if isinstance(source, int):
            parts.append(gs.Constant(names.new(f"{out.name}_size"), np.array([source], np.int64)))
            continue
        shape, part = (gs.Variable(names.new(f"{out.name}_{what}"), np.int64) for what in ("of", "part"))
        at = gs.Constant(names.new(f"{out.name}_at"), np.array([source[1]], np.int64))
        fresh.append(gs.Node("Shape", shape.name, {}, [inputs[source[0]]], [shape]))
        fresh.append(gs.Node("Gather", part.name, {"axis": 0}, [shape, at], [part]))
        parts.append(part)
    node.outputs = [gs.Variable(names.new(f"{out.name}_old"), out.dtype)]
    fresh.append(gs.Node("Concat", names.new(f"{out.name}_told"), {"axis": 0}, parts, [out]))
    place = place_of(graph.nodes, node)
    graph.nodes[place:place] = fresh
