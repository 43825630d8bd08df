"""Transformer encoders of any depth, built with onnx alone: separate q, k, v, a norm before each half."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class _Net:
    """Nodes and weights so far; every method adds one layer and returns the name of its output."""

    def __init__(self, width: int, heads: int, neurons: int) -> None:
        self.width, self.neurons = width, neurons
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.rng = np.random.default_rng(0)
        self.constant("heads", np.array([0, 0, heads, width // heads], np.int64))
        self.constant("joined", np.array([0, 0, width], np.int64))
        self.constant("scale", np.array((width / heads) ** -0.5, np.float32))

    def constant(self, name: str, value: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> str:
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def random(self, *shape: int) -> str:
        value = self.rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(shape[0]))
        return self.constant(f"w{len(self.weights)}", value)

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=f"{op}_{name}", **attributes))
        return name

    def linear(self, x: str, inner: int, outer: int) -> str:
        return self.node("Add", self.node("MatMul", x, self.random(inner, outer)), self.random(outer))

    def norm(self, x: str) -> str:
        return self.node("LayerNormalization", x, self.random(self.width), self.random(self.width), axis=-1)

    def heads(self, x: str, order: list[int]) -> str:
        split = self.node("Reshape", self.linear(x, self.width, self.width), "heads")
        return self.node("Transpose", split, perm=order)

    def block(self, x: str) -> str:
        """Attention and a gated-free MLP, both residual: 25 nodes."""
        y = self.norm(x)
        q, k, v = (self.heads(y, order) for order in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]))
        scores = self.node("Softmax", self.node("Mul", self.node("MatMul", q, k), "scale"), axis=-1)
        mixed = self.node("Transpose", self.node("MatMul", scores, v), perm=[0, 2, 1, 3])
        x = self.node("Add", x, self.linear(self.node("Reshape", mixed, "joined"), self.width, self.width))
        inner = self.node("Relu", self.linear(self.norm(x), self.width, self.neurons))
        return self.node("Add", x, self.linear(inner, self.neurons, self.width))


def transformer(
    blocks: int, width: int = 64, heads: int = 4, neurons: int = 128, words: int = 0
) -> onnx.ModelProto:
    """`blocks` layers: input `x` [batch, length, 16] and output `y` alike, or ids and the logits of a tied table."""
    net = _Net(width, heads, neurons)
    if words:
        table = net.random(words, width)
        x = net.node("Gather", table, "x")
    else:
        x = net.linear("x", 16, width)
    for _ in range(blocks):
        x = net.block(x)
    y = net.node("MatMul", x, net.node("Transpose", table)) if words else net.linear(x, width, 16)
    into = helper.make_tensor_value_info(
        "x",
        *(
            (TensorProto.INT64, ["batch", "length"])
            if words
            else (TensorProto.FLOAT, ["batch", "length", 16])
        ),
    )
    out = helper.make_tensor_value_info(y, TensorProto.FLOAT, ["batch", "length", words or 16])
    graph = helper.make_graph(net.nodes, f"stack of {blocks}", [into], [out], net.weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
