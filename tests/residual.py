"""Random residual networks of every kind that exporters write, and blocks bypassed in the file itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.models import Builder

WIDTH = 16
KINDS = ("pre", "post", "relu", "parallel", "scaled", "cast", "decomposed", "conv", "bias")


def network(kind: str, layers: int, seed: int = 0, opset: int = 17) -> onnx.ModelProto:
    """`layers` residual layers of one kind behind a stem and before a head."""
    b = Builder(seed)
    if kind == "conv":
        return _convolutions(b, layers, opset)
    x = b.node("MatMul", "x", b.weight(12, WIDTH))
    shared = b.node("MatMul", x, b.node("Transpose", x, perm=[0, 2, 1])) if kind == "bias" else ""
    for _ in range(layers):
        x = _layer(b, kind, x, shared)
    x = _norm(b, x) if kind in ("pre", "parallel", "bias") else x
    b.node("MatMul", x, b.weight(WIDTH, 5), outputs=["y"])
    return b.model({"x": ["n", "s", 12]}, {"y": ["n", "s", 5]}, opset)


def _layer(b: Builder, kind: str, x: str, shared: str) -> str:
    if kind == "parallel":  # x + attention(n) + ffn(n)
        n = _norm(b, x)
        return b.node("Add", b.node("Add", x, _attention(b, n)), _ffn(b, n))
    for part in (_attention, _ffn):
        if kind == "bias" and part is _attention:
            x = b.node("Add", x, _attention(b, _norm(b, x), shared))
        elif kind in ("pre", "bias"):
            x = b.node("Add", x, part(b, _norm(b, x)))
        elif kind == "post":
            x = _norm(b, b.node("Add", part(b, x), x))
        elif kind == "relu":
            x = b.node("Relu", b.node("Add", x, part(b, x)))
        elif kind == "scaled":
            scaled = b.node("Mul", x, b.value(1.5, np.float32))
            x = _norm(b, b.node("Add", scaled, part(b, x)))
        elif kind == "cast":  # norms in another precision
            wide = b.node("Cast", _norm(b, b.node("Cast", x, to=TensorProto.FLOAT)), to=TensorProto.FLOAT)
            x = b.node("Add", x, part(b, wide))
        else:
            x = _decomposed_norm(b, b.node("Add", x, part(b, x)))
    return x


def _norm(b: Builder, x: str) -> str:
    scale, bias = (b.value(b.rng.standard_normal(WIDTH) * 0.2 + mean, np.float32) for mean in (1, 0))
    return b.node("LayerNormalization", x, scale, bias, axis=-1)


def _decomposed_norm(b: Builder, x: str) -> str:
    """LayerNormalization in the ops that older exporters write."""
    centred = b.node("Sub", x, b.node("ReduceMean", x, axes=[-1]))
    square = b.node("ReduceMean", b.node("Pow", centred, b.value(2.0, np.float32)), axes=[-1])
    root = b.node("Sqrt", b.node("Add", square, b.value(1e-5, np.float32)))
    scaled = b.node("Mul", b.node("Div", centred, root), b.value(np.full(WIDTH, 1.2), np.float32))
    return b.node("Add", scaled, b.value(np.full(WIDTH, 0.1), np.float32))


def _attention(b: Builder, x: str, bias: str = "") -> str:
    q, k, v = (b.node("MatMul", x, b.weight(WIDTH, WIDTH)) for _ in range(3))
    shape = b.node("Shape", k)  # read off a tensor of the block, for something that stays the same
    scores = b.node("MatMul", q, b.node("Transpose", b.node("Reshape", k, shape), perm=[0, 2, 1]))
    scores = b.node("Add", scores, bias) if bias else scores
    mixed = b.node("MatMul", b.node("Softmax", scores, axis=-1), v)
    return b.node("MatMul", mixed, b.weight(WIDTH, WIDTH))


def _ffn(b: Builder, x: str) -> str:
    return b.node("MatMul", b.node("Relu", b.node("MatMul", x, b.weight(WIDTH, 24))), b.weight(24, WIDTH))


def _convolutions(b: Builder, layers: int, opset: int) -> onnx.ModelProto:
    """Two stages of basic blocks, the second behind a shortcut that changes the size."""
    x = b.node("Relu", b.node("Conv", "x", b.weight(8, 3, 3, 3), pads=[1] * 4))
    x = _stage(b, x, 8, layers)
    y = b.node("Conv", x, b.weight(WIDTH, 8, 3, 3), pads=[1] * 4, strides=[2, 2])
    x = b.node("Relu", b.node("Add", y, b.node("Conv", x, b.weight(WIDTH, 8, 1, 1), strides=[2, 2])))
    x = _stage(b, x, WIDTH, layers)
    b.node("Gemm", b.node("Flatten", b.node("GlobalAveragePool", x)), b.weight(WIDTH, 5), outputs=["y"])
    return b.model({"x": ["n", 3, 8, 8]}, {"y": ["n", 5]}, opset)


def _stage(b: Builder, x: str, width: int, layers: int) -> str:
    for _ in range(layers):
        y = b.node("Relu", b.node("Conv", x, b.weight(width, width, 3, 3), pads=[1] * 4))
        x = b.node("Relu", b.node("Add", b.node("Conv", y, b.weight(width, width, 3, 3), pads=[1] * 4), x))
    return x


def decoder_with_cache(layers: int = 3, seed: int = 0) -> onnx.ModelProto:
    """Pre-norm layers with keys and values from before: an input and an output each."""
    b = Builder(seed)
    x = b.node("MatMul", "x", b.weight(12, WIDTH))
    inputs: dict[str, Sequence[Any]] = {"x": ["n", "s", 12]}
    outputs: dict[str, Sequence[Any]] = {"y": ["n", "s", 5]}
    for i in range(layers):
        n = _norm(b, x)
        q = b.node("MatMul", n, b.weight(WIDTH, WIDTH))
        k, v = (
            b.node(
                "Concat",
                f"past.{i}.{what}",
                b.node("MatMul", n, b.weight(WIDTH, WIDTH)),
                outputs=[f"present.{i}.{what}"],
                axis=1,
            )
            for what in ("key", "value")
        )
        for what in ("key", "value"):
            inputs[f"past.{i}.{what}"] = ["n", "past", WIDTH]
            outputs[f"present.{i}.{what}"] = ["n", "total", WIDTH]
        scores = b.node("Softmax", b.node("MatMul", q, b.node("Transpose", k, perm=[0, 2, 1])), axis=-1)
        x = b.node("Add", x, b.node("MatMul", b.node("MatMul", scores, v), b.weight(WIDTH, WIDTH)))
        x = b.node("Add", x, _ffn(b, _norm(b, x)))
    b.node("MatMul", _norm(b, x), b.weight(WIDTH, 5), outputs=["y"])
    return b.model(inputs, outputs)


def encoder_decoder(layers: int = 2, seed: int = 0) -> onnx.ModelProto:
    """An encoder whose last state every decoder layer reads."""
    b = Builder(seed)
    memory = b.node("MatMul", "source", b.weight(12, WIDTH))
    for _ in range(layers):
        memory = _layer(b, "post", memory, "")
    x = b.node("MatMul", "x", b.weight(12, WIDTH))
    for _ in range(layers):
        x = _norm(b, b.node("Add", x, _attention(b, x)))
        q, k, v = (b.node("MatMul", t, b.weight(WIDTH, WIDTH)) for t in (x, memory, memory))
        scores = b.node("Softmax", b.node("MatMul", q, b.node("Transpose", k, perm=[0, 2, 1])), axis=-1)
        x = _norm(b, b.node("Add", x, b.node("MatMul", b.node("MatMul", scores, v), b.weight(WIDTH, WIDTH))))
        x = _norm(b, b.node("Add", x, _ffn(b, x)))
    b.node("MatMul", x, b.weight(WIDTH, 5), outputs=["y"])
    return b.model({"source": ["n", "t", 12], "x": ["n", "s", 12]}, {"y": ["n", "s", 5]})


def with_early_exit(layers: int = 4, after: int = 2, seed: int = 0) -> onnx.ModelProto:
    """A classifier with a head behind layer `after` and one at the end."""
    b = Builder(seed)
    x = b.node("MatMul", "x", b.weight(12, WIDTH))
    for i in range(layers):
        x = b.node("Add", x, _ffn(b, _norm(b, x)))
        if i + 1 in (after, layers):
            pooled = b.node("ReduceMean", _norm(b, x), axes=[1], keepdims=0)
            b.node("MatMul", pooled, b.weight(WIDTH, 5), outputs=["early" if i + 1 == after else "late"])
    return b.model({"x": ["n", "s", 12]}, {"early": ["n", 5], "late": ["n", 5]})


def bypassed(proto: onnx.ModelProto, around: Mapping[str, str]) -> onnx.ModelProto:
    """The file with nothing removed in which each key is computed under another name, and is its value instead."""
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    nodes = []
    for node in made.graph.node:
        nodes.append(node)
        for i, name in enumerate(node.output):
            if name in around:
                node.output[i] = f"{name}//whole"
                nodes.append(helper.make_node("Identity", [around[name]], [name]))
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    return made
