"""Element by element: activations as exporters spell them, selections, and nodes that change nothing."""

from __future__ import annotations

import numpy as np

from tests.fuzz.builder import Builder, Tensor

PLAIN = {"Relu": 9, "LeakyRelu": 9, "Tanh": 9, "Softplus": 9, "Elu": 9, "HardSigmoid": 9, "Abs": 9,
         "Softsign": 9,
         "HardSwish": 14, "Mish": 18, "Gelu": 20}  # fmt: skip


def activation(b: Builder, x: Tensor) -> Tensor:
    """One of many, mostly a single op."""
    kinds = [name for name, since in PLAIN.items() if b.opset >= since]
    kind = b.pick([*kinds, gelu, swish, clipped, bounded, selected, prelu, nothing, scaled, twice])
    return b.op(kind, x) if isinstance(kind, str) else kind(b, x)


def gelu(b: Builder, x: Tensor) -> Tensor:
    """Div, Erf, Add, Mul, Mul."""
    e = b.op("Erf", b.op("Div", x, b.scalar(1.4142135)))
    y = b.op("Mul", x, b.op("Add", e, b.scalar(1.0)))
    return b.op("Mul", y, b.scalar(0.5))


def swish(b: Builder, x: Tensor) -> Tensor:
    """x * sigmoid(x)."""
    return b.op("Mul", x, b.op("Sigmoid", x))


def clipped(b: Builder, x: Tensor) -> Tensor:
    """ReLU6."""
    return b.clip(x, 0.0, 6.0)


def bounded(b: Builder, x: Tensor) -> Tensor:
    """Min and Max, one bound a vector of the last dimension."""
    last = x.shape[-1]
    low = (
        b.scalar(-1.0)
        if isinstance(last, str) or b.chance(0.5)
        else b.const(-np.abs(b.rng.standard_normal(last)))
    )
    return b.op("Min", b.op("Max", x, low), b.scalar(2.0))


def selected(b: Builder, x: Tensor) -> Tensor:
    """Where, on a condition computed from the data or constant."""
    last = x.shape[-1]
    if isinstance(last, int) and b.chance(0.4):
        mask = b.initializer(b.rng.random(last) < 0.7, "mask")
        return b.op("Where", mask, x, b.scalar(0.25), shape=x.shape)
    positive = b.op("Greater", x, b.scalar(0.0))
    return b.op("Where", positive, x, b.op("Mul", x, b.scalar(0.1)))


def prelu(b: Builder, x: Tensor) -> Tensor:
    """A slope per channel, or one."""
    last = x.shape[-1]
    return b.op("PRelu", x, b.vector(1 if isinstance(last, str) or b.chance(0.3) else last, around=0.3))


def nothing(b: Builder, x: Tensor) -> Tensor:
    """Identities and Dropout."""
    y = b.op("Identity", b.op("Identity", x))
    if b.opset >= 12:
        return b.op("Dropout", y, b.initializer(np.array(0.5, np.float32)) if b.chance(0.5) else None)
    return b.op("Dropout", y, ratio=0.5)


def scaled(b: Builder, x: Tensor) -> Tensor:
    """A constant scale, and a square kept small."""
    y = b.op("Div", x, b.scalar(2.0))
    return b.op("Tanh", b.op("Pow", y, b.scalar(2.0))) if b.chance(0.4) else b.op("Sub", y, b.scalar(0.1))


def twice(b: Builder, x: Tensor) -> Tensor:
    """One tensor in both places of an op."""
    return b.op("Tanh", b.op(b.pick(["Add", "Mul"]), x, x))
