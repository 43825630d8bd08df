"""A small pre-norm encoder, as an ONNX graph and in NumPy, layer by layer, so that references can step in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from tests.models import Builder

Array = npt.NDArray[Any]
WIDTH, HEADS = 32, 4
EPS = 1e-5


@dataclass(frozen=True)
class Encoder:
    """What the graph is like.

    Attributes:
        layers: number of layers.
        tokens: how many tokens, or None for any number.
        masked: a mask `[batch, tokens]` of 1 and 0 is an input.
        read: `first` token, `all` tokens or their `mean`.
        opset: of the graph.
        folded: queries and keys have batch and heads in one dimension, scores in two.
    """

    layers: int = 3
    tokens: int | None = 17
    masked: bool = False
    read: str = "first"
    opset: int = 17
    folded: bool = False

    def proto(self) -> onnx.ModelProto:
        """The graph; input `x` is [batch, tokens, WIDTH]."""
        b = Builder(seed=3)
        length: int | str = self.tokens or "tokens"
        x, bias = "x", ""
        if self.masked:
            away = b.node("Sub", b.value(1.0, np.float32), "mask")
            low = b.node("Mul", away, b.value(-1e4, np.float32))
            bias = b.node("Unsqueeze", low, b.value([1, 2]))
        for _ in range(self.layers):
            x = b.node("Add", x, self._attention(b, self._norm(b, x), bias))
            inner = b.node("Relu", b.node("MatMul", self._norm(b, x), b.weight(WIDTH, 64)))
            x = b.node("Add", x, b.node("MatMul", inner, b.weight(64, WIDTH)))
        outputs: dict[str, Any] = {"y": ["batch", 5]}
        if self.read == "first":
            x = b.node("Gather", x, b.value(0), axis=1)
        elif self.read == "mean":
            x = b.node("ReduceMean", x, axes=[1], keepdims=0)
        else:
            outputs = {"y": ["batch", length, 5]}
        b.node("MatMul", x, b.weight(WIDTH, 5), outputs=["y"])
        inputs: dict[str, Any] = {"x": ["batch", length, WIDTH]}
        if self.masked:
            inputs["mask"] = ["batch", length]
        return b.model(inputs, outputs, opset=self.opset)

    def _norm(self, b: Builder, x: str) -> str:
        mean = b.node("ReduceMean", x, axes=[-1])
        centred = b.node("Sub", x, mean)
        variance = b.node("ReduceMean", b.node("Mul", centred, centred), axes=[-1])
        return b.node("Div", centred, b.node("Sqrt", b.node("Add", variance, b.value(EPS, np.float32))))

    def _attention(self, b: Builder, x: str, bias: str) -> str:
        q, k, v = (
            self._heads(b, b.node("MatMul", x, b.weight(WIDTH, WIDTH)), p)
            for p in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
        )
        scores = b.node("Mul", self._product(b, q, k), b.value((WIDTH // HEADS) ** -0.5, np.float32))
        probabilities = b.node("Softmax", b.node("Add", scores, bias) if bias else scores, axis=-1)
        out = b.node("Transpose", b.node("MatMul", probabilities, v), perm=[0, 2, 1, 3])
        flat = b.node("Reshape", out, b.value([0, self.tokens or -1, WIDTH]))
        return b.node("MatMul", flat, b.weight(WIDTH, WIDTH))

    def _product(self, b: Builder, q: str, k: str) -> str:
        if not self.folded:
            return b.node("MatMul", q, k)
        length, width = self.tokens or -1, WIDTH // HEADS
        q, k = (
            b.node("Reshape", x, b.value([-1, *n])) for x, n in ((q, (length, width)), (k, (width, length)))
        )
        return b.node("Reshape", b.node("MatMul", q, k), b.value([-1, HEADS, length, length]))

    def _heads(self, b: Builder, x: str, perm: list[int]) -> str:
        split = b.node(
            "Reshape", x, b.value([-1 if self.tokens else 0, self.tokens or -1, HEADS, WIDTH // HEADS])
        )
        return b.node("Transpose", split, perm=perm)


@dataclass
class Tokens:
    """Tokens of one sample between attention and MLP, as references change them.

    Attributes:
        x: [T, WIDTH].
        size: tokens behind each, [T].
        bias: added to the scores of each key, [T].
        members: original places behind each.
    """

    x: Array
    size: Array
    bias: Array
    members: list[list[int]]


Step = Callable[[int, Tokens, Array, Array], Tokens]  # layer, tokens, keys [H, T, d], probabilities [H, T, T]


def run(proto: onnx.ModelProto, x: Array, step: Step, bias: Array | None = None) -> Tokens:
    """One sample through the layers in float64, `step` after each attention; proportional by `size`."""
    weights = [
        numpy_helper.to_array(w).astype(np.float64) for w in proto.graph.initializer if w.name.startswith("w")
    ]
    number = len(x)
    tokens = Tokens(
        x.astype(np.float64),
        np.ones(number),
        np.zeros(number) if bias is None else bias,
        [[i] for i in range(number)],
    )
    for layer in range((len(weights) - 1) // 6):
        wq, wk, wv, wo, w1, w2 = weights[6 * layer : 6 * layer + 6]
        h = _normed(tokens.x)
        q, k, v = (_split(h @ w) for w in (wq, wk, wv))
        scores = q @ k.transpose(0, 2, 1) * (WIDTH // HEADS) ** -0.5 + tokens.bias + np.log(tokens.size)
        p = np.exp(scores - scores.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        tokens.x = tokens.x + (p @ v).transpose(1, 0, 2).reshape(len(h), WIDTH) @ wo
        tokens = step(layer, tokens, k, p)
        tokens.x = tokens.x + np.maximum(_normed(tokens.x) @ w1, 0) @ w2
    tokens.x = tokens.x @ weights[-1]
    return tokens


def _normed(x: Array) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    return np.asarray(centred / np.sqrt((centred**2).mean(-1, keepdims=True) + EPS))


def _split(x: Array) -> Array:
    return np.asarray(x.reshape(len(x), HEADS, WIDTH // HEADS).transpose(1, 0, 2))
