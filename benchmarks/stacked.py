"""Transformer encoders of any depth, built with onnx alone: separate q, k, v, a norm before each half."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WIDTH, HEADS, NEURONS = 64, 4, 128


class _Net:
    """Nodes and weights so far; every method adds one layer and returns the name of its output."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.rng = np.random.default_rng(0)
        self.constant("heads", np.array([0, 0, HEADS, WIDTH // HEADS], np.int64))
        self.constant("joined", np.array([0, 0, WIDTH], np.int64))
        self.constant("scale", np.array((WIDTH / HEADS) ** -0.5, np.float32))

    def constant(self, name: str, value: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> str:
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def random(self, *shape: int) -> str:
        value = (self.rng.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)
        return self.constant(f"w{len(self.weights)}", value)

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=f"{op}_{name}", **attributes))
        return name

    def linear(self, x: str, inner: int, outer: int) -> str:
        return self.node("Add", self.node("MatMul", x, self.random(inner, outer)), self.random(outer))

    def norm(self, x: str) -> str:
        return self.node("LayerNormalization", x, self.random(WIDTH), self.random(WIDTH), axis=-1)

    def heads(self, x: str, order: list[int]) -> str:
        split = self.node("Reshape", self.linear(x, WIDTH, WIDTH), "heads")
        return self.node("Transpose", split, perm=order)

    def block(self, x: str) -> str:
        """Attention and a gated-free MLP, both residual: 25 nodes."""
        y = self.norm(x)
        q, k, v = (self.heads(y, order) for order in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]))
        scores = self.node("Softmax", self.node("Mul", self.node("MatMul", q, k), "scale"), axis=-1)
        mixed = self.node("Transpose", self.node("MatMul", scores, v), perm=[0, 2, 1, 3])
        x = self.node("Add", x, self.linear(self.node("Reshape", mixed, "joined"), WIDTH, WIDTH))
        inner = self.node("Relu", self.linear(self.norm(x), WIDTH, NEURONS))
        return self.node("Add", x, self.linear(inner, NEURONS, WIDTH))


def transformer(blocks: int) -> onnx.ModelProto:
    """`blocks` layers between two projections; input `x` [batch, length, 16], output `y` alike."""
    net = _Net()
    x = net.linear("x", 16, WIDTH)
    for _ in range(blocks):
        x = net.block(x)
    y = net.linear(x, WIDTH, 16)
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", "length", 16]) for n in ("x", y)]
    graph = helper.make_graph(net.nodes, f"stack of {blocks}", ends[:1], ends[1:], net.weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
