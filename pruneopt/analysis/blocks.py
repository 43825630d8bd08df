"""Residual blocks and layers: what can be bypassed, what goes with it, and why the rest cannot.

A block leads from one tensor of a residual stream to a later one of the same size and type. Bypassing it puts
the entry in the exit's place; whatever only the exit needed is dead then. Nothing is found by names.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import onnx_graphsurgeon as gs

from pruneopt.analysis.axes import Axis
from pruneopt.analysis.chains import Leaf, chains, repeated
from pruneopt.analysis.cost import is_weight
from pruneopt.analysis.flow import Flow
from pruneopt.analysis.infer import Analysis
from pruneopt.analysis.joins import Join, Stream
from pruneopt.analysis.lengths import told_shapes

Term = tuple[Axis, ...]


@dataclass(frozen=True)
class Block:
    """A part of the graph between two tensors of a residual stream.

    Attributes:
        name: `layer3`, its sub-layer `layer3.1`, or `outer0` for a block that encloses others.
        entry: the tensor that takes the exit's place.
        exit: the tensor that is replaced.
        branches: (sum, addend) of its residual additions, where it consists of nothing else; else empty.
        nodes: places of the nodes that die with it.
        sides: graph outputs that it makes beside the exit, such as a key-value cache.
        inputs: graph inputs that nothing else reads.
        refused: why it cannot be bypassed, or nothing.
    """

    name: str
    entry: str
    exit: str
    branches: tuple[tuple[str, str], ...]
    nodes: frozenset[int]
    sides: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    refused: str = ""


class Blocks:
    """All blocks of an analysed graph.

    Attributes:
        layers: whole layers, in graph order.
        parts: the sub-layers of each layer, by the layer's name; itself where it has none.
        outer: blocks that enclose others, such as the lower part of a U-Net with additive skips.
        shortcuts: sums that the stream does not go through, because it changes its size there.
    """

    def __init__(self, analysis: Analysis) -> None:
        self.analysis = analysis
        self.told = list(told_shapes(analysis))
        self.flow = Flow(analysis.model.graph, {id(each.node) for each in self.told})
        self.stream = Stream(analysis, self.flow)
        self.layers: list[Block] = []
        self.parts: dict[str, list[Block]] = {}
        self.outer: list[Block] = []
        self.shortcuts: list[str] = []
        leaves = self._leaves()
        inner = [leaf for leaf in leaves if not self._encloses(leaf)]
        self._chains = chains(inner)
        self._stream_of: dict[str, tuple[str, str]] = {}  # layer -> start and end of its chain
        for chain in self._chains:
            for layer in repeated(chain, self._look):
                self._stream_of[f"layer{len(self.layers)}"] = chain[0].join.entry, chain[-1].exit
                self._add_layer(layer)
        for leaf in leaves:
            if leaf not in inner:
                self.outer.append(self._block(f"outer{len(self.outer)}", [leaf]))

    def all(self) -> list[Block]:
        """Layers, their sub-layers where they have several, and outer blocks."""
        subs = [b for layer in self.layers for b in self.parts[layer.name] if b is not layer]
        return [*self.layers, *subs, *self.outer]

    def units(self, unit: str) -> list[Block]:
        """The `layer`s, or the `block`s that they consist of, in graph order."""
        return self.layers if unit == "layer" else [b for each in self.layers for b in self.parts[each.name]]

    @cached_property
    def decoder(self) -> set[str]:
        """Names of the layers of streams that read what another stream ends with."""
        ends = [(chain[0].join.entry, chain[-1].exit) for chain in self._chains]
        found: set[str] = set()
        for layer in self.layers:
            start, end = self._stream_of[layer.name]
            found |= {
                layer.name
                for first, last in ends
                if self.flow.reaches(last, end)
                and not self.flow.reaches(last, start)
                and last != end
                and not self.flow.reaches(start, last)
            }
        return found

    def names(self, block: Block) -> list[str]:
        """Names of the nodes that die with a block, of what they make, and of their constants."""
        found = []
        for node in (self.flow.nodes[i] for i in sorted(block.nodes)):
            constants = (t for t in node.inputs if isinstance(t, gs.Constant))
            found += [name for name in (node.name, *(t.name for t in (*node.outputs, *constants))) if name]
        return found

    def removed(self, blocks: Iterable[Block]) -> set[int]:
        """Places of the nodes that die when all these blocks are bypassed at once."""
        sides = {name for block in blocks for name in block.sides}
        alive = self.flow.alive(bypass_of(blocks), [n for n in self.flow.outputs if n not in sides])
        return self._living - alive

    def macs_terms(self, nodes: set[int] | frozenset[int]) -> list[Term]:
        """Per product of sizes that these nodes multiply, its axes: a cost for any sizes of the atoms."""
        inside = {id(self.flow.nodes[i]) for i in nodes}
        return [axes for node, axes in self.analysis.macs if id(node) in inside]

    def params_terms(self, nodes: set[int] | frozenset[int]) -> list[Term]:
        """Axes of each weight that only these nodes use."""
        inside = {id(self.flow.nodes[i]) for i in nodes}
        shared = {id(u.constant) for u in self.analysis.uses if id(u.node) not in inside}
        found = {
            id(u.constant): tuple(u.axes)
            for u in self.analysis.uses
            if id(u.node) in inside and id(u.constant) not in shared and is_weight(u)
        }
        return list(found.values())

    @cached_property
    def _living(self) -> set[int]:
        return self.flow.alive({})

    def _leaves(self) -> list[Leaf]:
        """A leaf per join, its exit where the next branch starts; the last of a stream ends as the one before it."""
        found = []
        tails: dict[str, list[str]] = {}  # exit -> ops from the sum to it
        for join in self.stream.joins.values():
            leaf, tails[leaf.exit] = self._leaf(join, tails.get(join.entry))
            if join.branch:
                found.append(leaf)
            elif self.stream.shape(join.entry) != self.stream.shape(join.total):
                self.shortcuts.append(join.total)
        return found

    def _leaf(self, join: Join, known: list[str] | None) -> tuple[Leaf, list[str]]:
        """A leaf and the ops of its tail; `known` are those of the one before it."""
        ops: list[str] = []
        if join.total not in self.stream.points and known != []:
            for name in self.stream.tail(join.total):
                ops = [*ops, self.stream.op(name)]
                if ops == known or name in self.stream.points:
                    return Leaf(join, name), ops
        return Leaf(join, join.total), []

    def _encloses(self, leaf: Leaf) -> bool:
        own = leaf.join.total
        dead = self._living - self.flow.alive({leaf.exit: leaf.join.entry})
        sums = {self.flow.maker[j.total] for j in self.stream.joins.values() if j.branch and j.total != own}
        return not dead.isdisjoint(sums)

    def _add_layer(self, leaves: Sequence[Leaf]) -> None:
        name = f"layer{len(self.layers)}"
        layer = self._block(name, leaves)
        self.layers.append(layer)
        several = len(leaves) > 1
        self.parts[name] = (
            [self._block(f"{name}.{i}", [leaf]) for i, leaf in enumerate(leaves)] if several else [layer]
        )

    def _block(self, name: str, leaves: Sequence[Leaf]) -> Block:
        flow, entry, exit_ = self.flow, leaves[0].join.entry, leaves[-1].exit
        through = [n for n in flow.outputs if n in flow.bit and flow.reaches(exit_, n)]
        inside = flow.made(self._living - flow.alive({exit_: entry}, through)) & flow.before[exit_]
        rest = [n for n in flow.outputs if n in flow.bit and n not in through]
        sides = tuple(n for n in rest if flow.before[n] & inside)
        plain = all(leaf.exit == leaf.join.total and leaf.join.is_plain for leaf in leaves)
        branches = tuple((leaf.join.total, leaf.join.branch) for leaf in leaves) if plain else ()
        nodes = self._living - flow.alive({exit_: entry}, [n for n in flow.outputs if n not in sides])
        inputs = tuple(n for n in flow.inputs if n in flow.readers and nodes.issuperset(flow.readers[n]))
        block = Block(name, entry, exit_, branches, frozenset(nodes), sides, inputs)
        return replace(block, refused=self._refusal(block))

    def _refusal(self, block: Block) -> str:
        if not block.nodes:
            return "nothing is saved: all that it computes is read elsewhere, too"
        kinds = {self.stream.kind(block.entry), self.stream.kind(block.exit)} - {None}
        return "" if len(kinds) < 2 else "it changes the type from {} to {}".format(*map(str, kinds))

    def _look(self, leaf: Leaf) -> Any:
        """What a leaf computes: ops that multiply, with the shapes of their weights."""
        dead = self._living - self.flow.alive({leaf.exit: leaf.join.entry})
        heavy = {id(node) for node, _ in self.analysis.macs}
        nodes = [self.flow.nodes[i] for i in sorted(dead) if id(self.flow.nodes[i]) in heavy]
        return [(n.op, [tuple(t.shape) for t in n.inputs if isinstance(t, gs.Constant)]) for n in nodes]


def outermost(blocks: Sequence[Block]) -> list[Block]:
    """Without those that lie in another one: a layer's sub-layers go with it."""
    return [b for b in blocks if not any(b.nodes < other.nodes for other in blocks)]


def bypass_of(blocks: Iterable[Block]) -> dict[str, str]:
    """Exit -> entry of each."""
    return {block.exit: block.entry for block in blocks}
