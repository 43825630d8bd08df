"""Early exits: a head that reads an earlier state answers in the place of later ones, always or where it is sure.

A head is sure of a batch when the entropy of every row's distribution, as a share of the largest possible, is below a
threshold (BranchyNet, arXiv 1709.01686; DeeBERT, arXiv 2004.12993). What only the later heads need is then inside an
If, which a runtime skips; that pays with one row at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from pruneopt.analysis.blocks import Block, Blocks
from pruneopt.arrays import Array, Feeds
from pruneopt.errors import PruneoptError, UsageError
from pruneopt.model import Model
from pruneopt.passes.rewriting.edits import make_instead
from pruneopt.passes.rewriting.names import Names

TINY = 1e-12


def later_heads(blocks: Blocks, head: str) -> list[Block]:
    """What the head stands in for: a block from it to each output of its size and type that needs more than it does.

    Raises:
        UsageError: there is no such output.
        PruneoptError: no later output is like it.
    """
    flow, known = blocks.flow, [n for n in blocks.flow.outputs if n in blocks.flow.bit]
    if head not in known:
        raise UsageError(f"depth: the model has no output '{head}'; choose from {', '.join(known)}")
    shape, own = blocks.stream.shape(head), flow.alive({}, [head])
    found = []
    for name in known:
        alike = blocks.stream.shape(name) == shape and blocks.stream.kind(name) == blocks.stream.kind(head)
        needs = flow.alive({}, [name])
        if name != head and alike and name not in flow.readers and len(needs - own) > len(own - needs):
            dead = flow.alive({}) - flow.alive({name: head})
            found.append(Block(f"exit:{name}", head, name, (), frozenset(dead)))
    if not found:
        raise PruneoptError(
            f"depth: no output behind '{head}' has its size and type; it cannot answer for any"
        )
    return found


@dataclass(frozen=True)
class Gated:
    """The claim that a gated model equals the whole one with each answer selected by the same gate.

    Attributes:
        blocks: of the model before the rewrite.
        heads: what `later_heads` found.
        threshold: below which the head is sure.
    """

    blocks: Blocks
    heads: Sequence[Block]
    threshold: float

    def references(self) -> Iterator[tuple[Model, Feeds]]:
        """The whole model with the selection, for every observed input size."""
        model = self.blocks.analysis.model.copy()
        graph, names = model.graph, Names(model.graph)
        fresh, sure = _gate(self.blocks, graph, self.heads[0].entry, self.threshold, names)
        outputs = {t.name: t for t in graph.outputs}
        for block in self.heads:
            whole = _renamed(outputs[block.exit], names.new(f"{block.exit}//whole"))
            inputs = [sure, outputs[block.entry], whole]
            fresh.append(gs.Node("Where", whole.name, {}, inputs, [outputs[block.exit]]))
        graph.nodes.extend(fresh)
        for feeds in self.blocks.analysis.seen.feeds:
            yield model, feeds

    def count(self) -> int:
        """Heads that are answered for."""
        return len(self.heads)

    def kept(self, name: str, array: Array, run: int) -> Array | None:
        """Nothing is said of inner tensors: half of them is inside the If."""
        return None


def gated(blocks: Blocks, heads: Sequence[Block], threshold: float) -> Model:
    """A copy in which what only the later heads need runs where the early head is not sure."""
    model = blocks.analysis.model.copy()
    graph, names = model.graph, Names(model.graph)
    dead = blocks.removed(heads)
    deep = [node for place, node in enumerate(graph.nodes) if place in dead]
    graph.nodes = [node for place, node in enumerate(graph.nodes) if place not in dead]
    fresh, sure = _gate(blocks, graph, heads[0].entry, threshold, names)
    outputs = {t.name: t for t in graph.outputs}
    ends, copies = [], []
    for block in heads:
        rank, kind = len(blocks.analysis.axes[block.exit]), blocks.stream.kind(block.exit)
        whole = _renamed(outputs[block.exit], names.new(f"{block.exit}//whole"))
        early = gs.Variable(names.new(f"{block.exit}//early"), kind, [None] * rank)
        whole.dtype, whole.shape = kind, [None] * rank
        ends.append(whole)
        copies.append(gs.Node("Identity", early.name, {}, [outputs[block.entry]], [early]))
    bodies = {"then_branch": _body("early", copies, graph), "else_branch": _body("late", deep, graph, ends)}
    results = [outputs[block.exit] for block in heads]
    graph.nodes.extend([*fresh, gs.Node("If", names.new("early_exit"), bodies, [sure], results)])
    return model


def _body(
    name: str, nodes: list[gs.Node], graph: gs.Graph, ends: list[gs.Variable] | None = None
) -> gs.Graph:
    outputs = [node.outputs[0] for node in nodes] if ends is None else ends
    return gs.Graph(nodes, [], outputs, name=name, opset=graph.opset, import_domains=graph.import_domains)


def _renamed(output: gs.Tensor, name: str) -> gs.Variable:
    """A new tensor that the maker of `output` makes instead."""
    made = gs.Variable(name, output.dtype)
    make_instead(output, made)
    return made


def _gate(
    blocks: Blocks, graph: gs.Graph, head: str, threshold: float, names: Names
) -> tuple[list[gs.Node], gs.Variable]:
    """Nodes that compute whether the entropy of every row, as a share of the largest possible, is below a threshold."""
    classes = blocks.analysis.axes[head][-1].size[0]
    fresh: list[gs.Node] = []

    def node(op: str, *inputs: gs.Tensor, **attributes: Any) -> gs.Variable:
        out = gs.Variable(names.new("early_exit"))
        fresh.append(gs.Node(op, out.name, attributes, list(inputs), [out]))
        return out

    def constant(value: Any) -> gs.Constant:
        return gs.Constant(names.new("early_exit"), np.asarray(value, np.float32))

    tensor = next(t for t in graph.outputs if t.name == head)
    rows = node("Cast", tensor, to=int(onnx.TensorProto.FLOAT))
    shares = rows if blocks.stream.op(head) == "Softmax" else node("Softmax", rows, axis=-1)
    logs = node("Log", node("Add", shares, constant(TINY)))
    entropy = node("MatMul", node("Mul", shares, logs), constant(np.full((classes, 1), -1 / np.log(classes))))
    return fresh, node("Less", node("ReduceMax", entropy, keepdims=0), constant(threshold))
