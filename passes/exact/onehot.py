"""A one-hot vector times a matrix is one of its rows, which is how exporters for TPUs write a lookup."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from pruneopt.analysis.observe import Observation
from pruneopt.model import values
from pruneopt.passes.rewriting.edits import place_of
from pruneopt.passes.rewriting.names import Names

OPSET = 13  # from which Clip takes integers and Squeeze its axes as an input


@dataclass(frozen=True)
class Hot:
    """What was made one-hot: integers, with a last dimension of one or `without`; whether negative ones `wrap`."""

    tensor: gs.Tensor
    without: bool = False
    wrap: bool = False


def look_up_rows(graph: gs.Graph, seen: Observation, opset: int) -> bool:
    """MatMul(one hot(x), W) -> Gather(W', x'), in place; whether there was any.

    W' has a row of zeros at either end, for x that is hot nowhere, and x' is x cut off to one before and one behind.
    """
    found = [(node, _hot(node, seen)) for node in graph.nodes if opset >= OPSET]
    names = Names(graph)
    for node, hot in found:
        if hot is not None:
            _Lookup(graph, node, names).put(hot)
    return any(hot for _, hot in found)


def _hot(node: gs.Node, seen: Observation) -> Hot | None:
    """What a product looks up, if it is a lookup; large weights of other products are not read."""
    if node.op != "MatMul" or not isinstance(node.inputs[1], gs.Constant) or len(node.inputs[1].shape) != 2:
        return None
    depth, data = node.inputs[1].shape[0], node.inputs[0]
    while data.inputs and data.inputs[0].op == "Cast":
        data = data.inputs[0].inputs[0]
    maker = data.inputs[0] if data.inputs else None
    if maker is None or maker.op not in ("Equal", "OneHot") or data.name not in seen.shapes:
        return None
    matrix = values(node.inputs[1])
    if matrix.dtype.kind != "f" or not np.isfinite(matrix).all():  # zero times infinity
        return None
    if maker.op == "Equal":
        return _compared(maker, depth, seen)
    return _chosen(maker, depth, len(seen.shapes[data.name]))


def _compared(equal: gs.Node, depth: int, seen: Observation) -> Hot | None:
    """x of Equal(x, 0 1 2 ...) or Equal(Expand(x), 0 1 2 ...), with a last dimension of one that is spread."""
    count, data = sorted(equal.inputs, key=lambda t: not isinstance(t, gs.Constant))
    if not isinstance(count, gs.Constant) or isinstance(data, gs.Constant):
        return None
    numbers = values(count)
    if numbers.dtype.kind not in "iu" or not _counts(numbers, depth):
        return None
    column = (*seen.shapes[equal.outputs[0].name][:-1], (1,) * seen.runs)
    if data.inputs and data.inputs[0].op == "Expand":
        data = data.inputs[0].inputs[0]
    return Hot(data) if seen.shapes.get(data.name) == column else None


def _counts(numbers: Any, depth: int) -> bool:
    return numbers.shape[-1:] == (depth,) and np.array_equal(numbers.reshape(-1), np.arange(depth))


def _chosen(node: gs.Node, depth: int, rank: int) -> Hot | None:
    """x of OneHot(x, depth, [0, 1]) along the last dimension."""
    data, *terms = node.inputs
    if not all(isinstance(t, gs.Constant) for t in terms) or str(data.dtype) not in ("int32", "int64"):
        return None
    count, pair = (values(t).reshape(-1) for t in terms)
    last = node.attrs.get("axis", -1) in (-1, rank - 1)
    return Hot(data, without=True, wrap=True) if last and count[0] == depth and list(pair) == [0, 1] else None


@dataclass
class _Lookup:
    """Writes the nodes of one lookup before the product that it takes the place of."""

    graph: gs.Graph
    product: gs.Node
    names: Names

    def put(self, hot: Hot) -> None:
        matrix = self.product.inputs[1]
        depth = len(values(matrix))
        x = self._op("Cast", hot.tensor, to=onnx.TensorProto.INT64)
        if not hot.without:
            x = self._op("Squeeze", x, self._number(-1, 1))
        if hot.wrap:
            x = self._op(
                "Where", self._op("Less", x, self._number(0)), self._op("Add", x, self._number(depth)), x
            )
        x = self._op("Add", self._op("Clip", x, self._number(-1), self._number(depth)), self._number(1))
        rows = gs.Constant(self.names.instead(matrix, "rows"), np.pad(values(matrix), ((1, 1), (0, 0))))
        self.product.op, self.product.attrs, self.product.inputs = "Gather", {"axis": 0}, [rows, x]

    def _op(self, op: str, *inputs: gs.Tensor, **attrs: Any) -> gs.Variable:
        made = gs.Variable(self.names.new(f"{self.product.outputs[0].name}_{op}"))
        node = gs.Node(op, self.names.new(f"{made.name}_node"), attrs, list(inputs), [made])
        self.graph.nodes.insert(place_of(self.graph.nodes, self.product), node)
        return made

    def _number(self, value: int, rank: int = 0) -> gs.Constant:
        name = self.names.new(f"{self.product.outputs[0].name}_{value}")
        return gs.Constant(name, np.full((1,) * rank, value, np.int64))
