"""Joins equal linear maps of one input into one, the reverse of `unmerge`: one larger product runs faster."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.model import Model, values
from pruneopt.passes.base import Outcome
from pruneopt.passes.claims import Unchanged
from pruneopt.passes.context import Context
from pruneopt.passes.exact.identities import drop_dead
from pruneopt.passes.rewriting.edits import place_of
from pruneopt.passes.rewriting.names import Names


@dataclass(frozen=True)
class Merge:
    """Join MatMuls (with their bias) that read one tensor and have weights of one shape.

    [x A + a, x B + b] = split(x [A B] + [a b])
    """

    def run(self, model: Model, context: Context) -> Outcome:
        """The model with sibling products joined; exact."""
        copy = model.copy()
        names = Names(copy.graph)
        joined = 0
        for siblings in list(_siblings(copy.graph)):
            _join(copy, siblings, names)
            joined += len(siblings)
        drop_dead(copy.graph)
        return Outcome(copy, {"joined": joined}, Unchanged(model, context.feeds) if joined else None)


@dataclass(frozen=True)
class _Linear:
    """A MatMul by a constant matrix, and the Add of a constant vector after it if there is one."""

    product: gs.Node
    add: gs.Node | None

    @property
    def weight(self) -> gs.Constant:
        return self.product.inputs[1]

    @property
    def bias(self) -> gs.Constant | None:
        return None if self.add is None else next(t for t in self.add.inputs if isinstance(t, gs.Constant))

    @property
    def last(self) -> gs.Node:
        return self.add or self.product


def _siblings(graph: gs.Graph) -> Iterator[list[_Linear]]:
    """Groups of at least two that can be joined, in graph order."""
    ends = {t.name for t in graph.outputs}
    found: dict[tuple[object, ...], list[_Linear]] = {}
    for node in graph.nodes:
        if node.op == "MatMul" and isinstance(node.inputs[1], gs.Constant) and len(node.inputs[1].shape) == 2:
            linear = _Linear(node, _bias_add(node, ends))
            kind = (tuple(linear.weight.shape), str(linear.weight.dtype), linear.add is None)
            found.setdefault((id(node.inputs[0]), *kind), []).append(linear)
    for group in found.values():
        distinct = {id(x.weight) for x in group}
        if len(group) > 1 and len(distinct) == len(group) and all(len(x.weight.outputs) == 1 for x in group):
            yield group


def _bias_add(product: gs.Node, ends: set[str]) -> gs.Node | None:
    out = product.outputs[0]
    reader = out.outputs[0] if len(out.outputs) == 1 and out.name not in ends else None
    if reader is None or reader.op != "Add":
        return None
    vectors = [
        t
        for t in reader.inputs
        if isinstance(t, gs.Constant) and list(t.shape) == [product.inputs[1].shape[1]]
    ]
    return reader if len(vectors) == 1 else None


def _join(model: Model, siblings: list[_Linear], names: Names) -> None:
    first = siblings[0].product
    at = place_of(model.graph.nodes, first)
    weight = np.concatenate([values(x.weight) for x in siblings], axis=1)
    out = gs.Variable(names.new(f"{first.outputs[0].name}_joined"), siblings[0].last.outputs[0].dtype)
    made = [
        _node(
            "MatMul",
            [first.inputs[0], gs.Constant(names.new(f"{siblings[0].weight.name}_joined"), weight)],
            out,
            names,
        )
    ]
    biases = [x.bias for x in siblings if x.bias is not None]
    if biases:
        bias = gs.Constant(names.new(f"{biases[0].name}_joined"), np.concatenate([values(b) for b in biases]))
        total = gs.Variable(names.new(f"{out.name}_biased"), out.dtype)
        made.append(_node("Add", [out, bias], total, names))
        out = total
    outputs = [x.last.outputs[0] for x in siblings]
    for linear in siblings:
        linear.last.outputs.clear()
    made.append(_split(model, out, outputs, weight.shape[1] // len(siblings), names))
    model.graph.nodes[at:at] = made


def _node(op: str, inputs: list[gs.Tensor], out: gs.Variable, names: Names) -> gs.Node:
    return gs.Node(op, names.new(out.name), {}, inputs, [out])


def _split(model: Model, whole: gs.Variable, outputs: list[gs.Variable], width: int, names: Names) -> gs.Node:
    sizes = [width] * len(outputs)
    name = names.new(f"{whole.name}_split")
    if model.opset() < 13:
        return gs.Node("Split", name, {"axis": -1, "split": sizes}, [whole], outputs)
    places = gs.Constant(names.new(f"{whole.name}_sizes"), np.array(sizes, np.int64))
    return gs.Node("Split", name, {"axis": -1}, [whole, places], outputs)
