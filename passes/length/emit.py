"""Writes nodes in whatever form the model's opset has. A *line* here is a tensor of int64, shape [1]."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from pruneopt.arrays import Array
from pruneopt.errors import PruneoptError
from pruneopt.frontends.widen import has_halves
from pruneopt.model import Model
from pruneopt.passes.rewriting.names import Names

Operand: TypeAlias = "gs.Tensor | Array | int | float | Sequence[Any]"
FLOAT = onnx.TensorProto.FLOAT
INT64 = onnx.TensorProto.INT64
END = np.iinfo(np.int64).max


class Emit:
    """Makes nodes at the end of a graph; `order` puts them where their inputs are known."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.opset = model.opset()
        self.needs(11)
        self.halves = has_halves(model)
        self.names = Names(model.graph)
        self._constants: dict[tuple[Any, ...], gs.Constant] = {}

    def needs(self, opset: int) -> None:
        """Raises PruneoptError where the model's opset is older."""
        if self.opset < opset:
            raise PruneoptError(
                f"length: this needs opset {opset}, the model has {self.opset}; convert it (onnx.version_converter)"
            )

    def op(
        self, op: str, *inputs: Operand | None, out: gs.Variable | None = None, **attrs: Any
    ) -> gs.Variable:
        """One node of one output."""
        return self.ops(op, *inputs, outs=[out or gs.Variable(self.names.new("pruneopt_length"))], **attrs)[0]

    def ops(
        self, op: str, *inputs: Operand | None, outs: list[gs.Variable], **attrs: Any
    ) -> list[gs.Variable]:
        """One node; a node elsewhere may be called as one of the graph's tensors is."""
        tensors = [gs.Variable.empty() if i is None else self.tensor(i) for i in inputs]
        name = self.names.new(f"{outs[0].name}_made")
        self.model.graph.nodes.append(gs.Node(op, name, attrs, tensors, outs))
        return outs

    def tensor(self, value: Operand) -> gs.Tensor:
        """A constant for a number or array; integers are int64, other numbers float32."""
        if isinstance(value, gs.Tensor):
            return value
        array: Array = np.asarray(value)
        array = (
            array.astype(np.int64 if array.dtype.kind in "iu" else np.float32)
            if array.dtype != bool
            else array
        )
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = gs.Constant(
                self.names.new("pruneopt_length"), np.ascontiguousarray(array).reshape(array.shape)
            )
        return self._constants[key]

    # --- shapes ------------------------------------------------------------------------------------

    def size(self, x: gs.Tensor, dim: int) -> gs.Variable:
        """The size of one dimension, a line."""
        if self.opset >= 15:
            return self.op("Shape", x, start=dim, end=dim + 1)
        return self.op("Gather", self.op("Shape", x), [dim], axis=0)

    def join(self, *pieces: Operand, axis: int = 0) -> gs.Tensor:
        """Concat; one piece is itself."""
        return self.tensor(pieces[0]) if len(pieces) == 1 else self.op("Concat", *pieces, axis=axis)

    def unsqueeze(self, x: gs.Tensor, *axes: int) -> gs.Variable:
        """New dimensions of size 1."""
        return self._along("Unsqueeze", x, axes, since=13)

    def squeeze(self, x: gs.Tensor, *axes: int) -> gs.Variable:
        """Dimensions of size 1 go."""
        return self._along("Squeeze", x, axes, since=13)

    def _along(self, op: str, x: gs.Tensor, axes: Sequence[int], since: int, **attrs: int) -> gs.Variable:
        """An op whose axes are an input `since` some opset, and were an attribute before."""
        if self.opset >= since:
            return self.op(op, x, list(axes), **attrs)
        return self.op(op, x, axes=list(axes), **attrs)

    def slice(
        self, x: gs.Tensor, axis: int, start: Operand, end: Operand = (END,), step: int = 1
    ) -> gs.Variable:
        """`x[start:end:step]` along one axis; bounds are lines or one-element lists."""
        return self.op("Slice", x, start, end, [axis], *([[step]] if step != 1 else []))

    def transpose(self, x: gs.Tensor, perm: Sequence[int]) -> gs.Tensor:
        """Dimensions in the order `perm`; in order already, nothing happens."""
        return x if list(perm) == sorted(perm) else self.op("Transpose", x, perm=list(perm))

    # --- arithmetic --------------------------------------------------------------------------------

    def cast(self, x: gs.Tensor, to: int) -> gs.Variable:
        """To another type."""
        return self.op("Cast", x, to=to)

    def wide(self, x: gs.Tensor) -> gs.Tensor:
        """In float32, where the model may be in half precision."""
        return self.cast(x, FLOAT) if self.halves else x

    def like(self, x: gs.Tensor, pattern: gs.Tensor) -> gs.Tensor:
        """`x`, which is float32, in the type of `pattern`. Raises PruneoptError where the opset cannot say so."""
        if not self.halves:
            return x
        self.needs(15)
        return self.op("CastLike", x, pattern)

    def mean(self, x: gs.Tensor, *axes: int) -> gs.Variable:
        """The mean over axes, which go."""
        return self._along("ReduceMean", x, axes, since=18, keepdims=0)

    def sum(self, x: gs.Tensor, *axes: int) -> gs.Variable:
        """The sum over axes, which become 1."""
        return self._along("ReduceSum", x, axes, since=13, keepdims=1)

    def norm(self, x: gs.Tensor, axis: int) -> gs.Variable:
        """The Euclidean norm along an axis, which becomes 1."""
        return self._along("ReduceL2", x, [axis], since=18, keepdims=1)

    # --- picking: indices have the shape [B, K, 1] ------------------------------------------------------

    def top(
        self, x: gs.Tensor, count: Operand, axis: int, largest: bool = True
    ) -> tuple[gs.Variable, gs.Variable]:
        """(values, indices) of the `count` first along an axis, in order; of equals the first."""
        outs = [gs.Variable(self.names.new("pruneopt_length")) for _ in range(2)]
        self.ops("TopK", x, count, outs=outs, axis=axis, largest=int(largest), sorted=1)
        return outs[0], outs[1]

    def ascending(self, indices: gs.Tensor, count: Operand) -> gs.Variable:
        """Indices in ascending order, all `count` of them."""
        return self.top(indices, count, 1, largest=False)[0]

    def parted(self, x: gs.Tensor, first: gs.Tensor, second: gs.Tensor) -> list[gs.Variable]:
        """`first` and then `second` entries of dimension 1; the numbers are lines."""
        outs = [gs.Variable(self.names.new("pruneopt_length")) for _ in range(2)]
        if self.opset >= 13:
            return self.ops("Split", x, self.join(first, second), outs=outs, axis=1)
        return [self.slice(x, 1, [0], first), self.slice(x, 1, first)]

    def rows(self, x: gs.Tensor, at: gs.Tensor) -> gs.Variable:
        """`x[b, at[b, k]]`: whole rows, shapes [B, T, ...] and [B, K, 1] to [B, K, ...]."""
        if self.opset >= 12:
            return self.op("GatherND", x, at, batch_dims=1)
        batch, length = self.size(x, 0), self.size(x, 1)
        first = self.op("Mul", self.op("Range", 0, self.squeeze(batch, 0), 1), length)
        flat = self.op("Reshape", x, self.join([-1], self.op("Slice", self.op("Shape", x), [2], [END], [0])))
        return self.op("Gather", flat, self.op("Add", self.squeeze(at, 2), self.unsqueeze(first, 1)), axis=0)


def order(model: Model) -> Model:
    """Nodes in an order in which every input is known; what is in order already stays so."""
    graph = model.graph
    made = {t.name for node in graph.nodes for t in node.outputs if t.name}
    readers: dict[str, list[int]] = {}
    needs = []
    for at, node in enumerate(graph.nodes):
        read = _read(node) & made
        needs.append(len(read))
        for name in read:
            readers.setdefault(name, []).append(at)
    ready = [at for at, count in enumerate(needs) if not count]
    done: list[gs.Node] = []
    while ready:
        node = graph.nodes[heapq.heappop(ready)]
        done.append(node)
        for reader in (r for t in node.outputs for r in readers.get(t.name, [])):
            needs[reader] -= 1
            if not needs[reader]:
                heapq.heappush(ready, reader)
    graph.nodes = done
    return model


def _read(node: gs.Node) -> set[str]:
    """Names that a node or its bodies read."""
    found = {t.name for t in node.inputs if t.name}
    for body in node.subgraphs(recursive=True):
        found |= {t.name for inner in body.nodes for t in inner.inputs if t.name} | {
            t.name for t in body.outputs
        }
    return found
