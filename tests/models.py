"""Small real-shaped networks that tests share, written with onnx.helper."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pruneopt.model import Model


class Builder:
    """Nodes and random weights, named as they come."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, *shape: int, name: str = "") -> str:
        """A weight scaled so that activations keep their size."""
        name = name or f"w{len(self.weights)}"
        array = self.rng.standard_normal(shape, dtype=np.float32) / np.sqrt(np.prod(shape[1:]) or 1)
        self.weights.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    def value(self, array: Any, dtype: Any = np.int64) -> str:
        """A constant of this value."""
        name = f"c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array, dtype), name))
        return name

    def node(self, op: str, *inputs: str, outputs: Sequence[str] = (), **attributes: Any) -> str:
        """A node; returns the name of its first output."""
        names = list(outputs) or [f"t{len(self.nodes)}"]
        self.nodes.append(helper.make_node(op, inputs, names, name=f"n{len(self.nodes)}", **attributes))
        return names[0]

    def model(
        self, inputs: dict[str, Sequence[Any]], outputs: dict[str, Sequence[Any]], opset: int = 17
    ) -> onnx.ModelProto:
        """The whole model; all inputs and outputs are float32."""
        first, last = (
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in ends.items()]
            for ends in (inputs, outputs)
        )
        graph = helper.make_graph(self.nodes, "g", first, last, self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def convnet() -> onnx.ModelProto:
    """Residual convolutions with BatchNormalization and a linear head."""
    b = Builder()
    x = b.node("Conv", "x", b.weight(32, 3, 3, 3), pads=[1] * 4)
    for _ in range(2):
        y = b.node("Relu", b.node("Conv", x, b.weight(48, 32, 3, 3), pads=[1] * 4))
        y = b.node("Conv", y, b.weight(32, 48, 1, 1))
        norm = [b.value(np.abs(b.rng.standard_normal(32)) + 0.5, np.float32) for _ in range(4)]
        x = b.node("Relu", b.node("Add", x, b.node("BatchNormalization", y, *norm)))
    x = b.node("Flatten", b.node("GlobalAveragePool", x))
    b.node("Gemm", x, b.weight(10, 32), b.value(np.zeros(10), np.float32), outputs=["y"], transB=1)
    return b.model({"x": ["n", 3, 16, 16]}, {"y": ["n", 10]})


def squeezed() -> onnx.ModelProto:
    """Blocks with a shortcut of their own, and a gate per channel from fewer features than the shortcut has."""
    b = Builder()
    x = b.node("Relu", b.node("Conv", "x", b.weight(32, 3, 3, 3), pads=[1] * 4))
    for _ in range(2):
        short = b.node("Conv", x, b.weight(32, 32, 1, 1))
        y = b.node("Relu", b.node("Conv", x, b.weight(64, 32, 1, 1)))
        gate = b.node("Relu", b.node("Conv", b.node("GlobalAveragePool", y), b.weight(16, 64, 1, 1)))
        gate = b.node("Sigmoid", b.node("Conv", gate, b.weight(64, 16, 1, 1)))
        x = b.node("Add", b.node("Conv", b.node("Mul", y, gate), b.weight(32, 64, 1, 1)), short)
    x = b.node("Flatten", b.node("GlobalAveragePool", b.node("Relu", x)))
    b.node("Gemm", x, b.weight(10, 32), b.value(np.zeros(10), np.float32), outputs=["y"], transB=1)
    return b.model({"x": ["n", 3, 16, 16]}, {"y": ["n", 10]})


def transformer(layers: int = 2, width: int = 64, heads: int = 4) -> onnx.ModelProto:
    """Pre-norm encoder layers over a dynamic batch and length; heads split by computed shapes."""
    b = Builder()
    zero = b.value(np.zeros(width), np.float32)  # one bias for every layer
    x = b.node("MatMul", "x", b.weight(24, width, name="embed"))
    for _ in range(layers):
        x = b.node("Add", x, _attention(b, _norm(b, x, width, zero), width, heads, zero))
        y = b.node("Gelu", b.node("MatMul", _norm(b, x, width, zero), b.weight(width, 4 * width)))
        x = b.node("Add", x, b.node("Add", b.node("MatMul", y, b.weight(4 * width, width)), zero))
    b.node("MatMul", _norm(b, x, width, zero), b.weight(width, 7, name="head"), outputs=["y"])
    return b.model({"x": ["n", "s", 24]}, {"y": ["n", "s", 7]}, opset=20)


def parallel_transformer(layers: int = 2, width: int = 64, heads: int = 4) -> onnx.ModelProto:
    """Layers whose attention and neurons read one norm and are added up before the stream, as in GPT-J and Phi."""
    b = Builder()
    zero = b.value(np.zeros(width), np.float32)
    x = b.node("MatMul", "x", b.weight(24, width, name="embed"))
    for _ in range(layers):
        normed = _norm(b, x, width, zero)
        attended = _attention(b, normed, width, heads, zero)
        y = b.node("Gelu", b.node("MatMul", normed, b.weight(width, 4 * width)))
        x = b.node("Add", b.node("Add", attended, b.node("MatMul", y, b.weight(4 * width, width))), x)
    b.node("MatMul", _norm(b, x, width, zero), b.weight(width, 7, name="head"), outputs=["y"])
    return b.model({"x": ["n", "s", 24]}, {"y": ["n", "s", 7]}, opset=20)


def _norm(b: Builder, x: str, width: int, zero: str) -> str:
    return b.node("LayerNormalization", x, b.value(np.ones(width), np.float32), zero, axis=-1)


def _attention(b: Builder, x: str, width: int, heads: int, zero: str) -> str:
    shape = b.node("Shape", x)
    parts = [b.node("Slice", shape, b.value([0]), b.value([2])), b.value([heads]), b.value([width // heads])]
    target = b.node("Concat", *parts, axis=0)
    q, k, v = (
        b.node("Reshape", b.node("Add", b.node("MatMul", x, b.weight(width, width)), zero), target)
        for _ in range(3)
    )
    q, v = (b.node("Transpose", t, perm=[0, 2, 1, 3]) for t in (q, v))
    k = b.node("Transpose", k, perm=[0, 2, 3, 1])
    size = b.node("Gather", b.node("Shape", q), b.value(-1))  # the softmax scale is computed at run time
    scale = b.node("Sqrt", b.node("Cast", size, to=TensorProto.FLOAT))
    scores = b.node("Softmax", b.node("Div", b.node("MatMul", q, k), scale), axis=-1)
    mixed = b.node("Transpose", b.node("MatMul", scores, v), perm=[0, 2, 1, 3])
    return b.node("MatMul", b.node("Reshape", mixed, b.value([0, 0, -1])), b.weight(width, width))


def fused_attention(width: int = 32, heads: int = 4, pick: str = "Gather") -> onnx.ModelProto:
    """One linear map for query, key and value, `(3 h d)`, whose parts are picked by Gather, Slice or Split."""
    b = Builder()
    size = width // heads
    x = b.node(
        "Add",
        b.node("MatMul", "x", b.weight(width, 3 * width)),
        b.value(b.rng.standard_normal(3 * width), np.float32),
    )
    x = b.node("Transpose", b.node("Reshape", x, b.value([0, -1, 3, heads, size])), perm=[2, 0, 3, 1, 4])
    q, k, v = _three(b, x, pick)
    scores = b.node("Softmax", b.node("MatMul", q, b.node("Transpose", k, perm=[0, 1, 3, 2])), axis=-1)
    mixed = b.node("Transpose", b.node("MatMul", scores, v), perm=[0, 2, 1, 3])
    b.node("MatMul", b.node("Reshape", mixed, b.value([0, -1, width])), b.weight(width, 5), outputs=["y"])
    return b.model({"x": ["n", "s", width]}, {"y": ["n", "s", 5]})


def _three(b: Builder, x: str, pick: str) -> list[str]:
    if pick == "Gather":
        return [b.node("Gather", x, b.value(i), axis=0) for i in range(3)]
    if pick == "Slice":
        parts = [b.node("Slice", x, b.value([i]), b.value([i + 1]), b.value([0])) for i in range(3)]
    else:
        parts = ["p0", "p1", "p2"]
        b.node("Split", x, b.value([1, 1, 1]), outputs=parts, axis=0)
    return [b.node("Squeeze", p, b.value([0])) for p in parts]


def group_norm_net() -> onnx.ModelProto:
    """GroupNorm spelt as Reshape, InstanceNormalization, Reshape, with the group count in a literal."""
    b = Builder()
    x = b.node("Conv", "x", b.weight(32, 3, 3, 3), pads=[1] * 4)
    shape = b.node("Shape", x)
    y = b.node("Reshape", x, b.value([0, 8, -1]))
    y = b.node("InstanceNormalization", y, b.value(np.ones(8), np.float32), b.value(np.zeros(8), np.float32))
    y = b.node("Reshape", y, shape)
    y = b.node("Relu", b.node("Mul", y, b.value(b.rng.standard_normal((32, 1, 1)), np.float32)))
    b.node("Conv", y, b.weight(5, 32, 1, 1), outputs=["y"])
    return b.model({"x": ["n", 3, 8, 8]}, {"y": ["n", 5, 8, 8]})


def tied_language_model(words: int = 50, width: int = 32) -> onnx.ModelProto:
    """An embedding whose transpose is the output head."""
    b = Builder()
    table = b.weight(words, width, name="table")
    x = b.node("Gather", table, "ids")
    y = b.node("Relu", b.node("MatMul", x, b.weight(width, 4 * width)))
    x = b.node("Add", x, b.node("MatMul", y, b.weight(4 * width, width)))
    b.node("MatMul", x, b.node("Transpose", table, perm=[1, 0]), outputs=["y"])
    model = b.model({}, {"y": ["n", "s", words]})
    model.graph.input.append(helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", "s"]))
    return model


def halved(proto: onnx.ModelProto) -> onnx.ModelProto:
    """All numbers in half precision."""
    for weight in proto.graph.initializer:
        array = numpy_helper.to_array(weight)
        if array.dtype == np.float32:
            weight.CopyFrom(numpy_helper.from_array(array.astype(np.float16), weight.name))
    for end in (*proto.graph.input, *proto.graph.output):
        end.type.tensor_type.elem_type = TensorProto.FLOAT16
    return proto


def save(proto: onnx.ModelProto, folder: Path, name: str = "model.onnx") -> Path:
    """The model as a file."""
    onnx.save(proto, folder / name)
    return folder / name


def loaded(proto: onnx.ModelProto) -> Model:
    """The model as pruneopt has it."""
    return Model.from_proto(proto)
