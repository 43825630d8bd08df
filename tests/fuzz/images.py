"""Blocks of convolutional nets: `[N, C, *space]` to the same layout, in one to three spatial dimensions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import TensorProto

from tests.fuzz import rare
from tests.fuzz.builder import Builder, Tensor
from tests.fuzz.channels import (
    channel_shuffle,
    constant_left,
    einsum,
    gathered,
    group_norm,
    padded,
    parts_of,
    pixel_shuffle,
    quantised,
    standardised,
    tiled,
)
from tests.fuzz.convolutions import (
    channels,
    conv,
    conv_transpose,
    exact,
    linear2d,
    per_channel,
    resized,
    space,
)
from tests.fuzz.pointwise import activation, gelu

Block = Callable[[Builder, Tensor], Tensor]


def batch_norm(b: Builder, x: Tensor) -> Tensor:
    """With stored statistics."""
    c = x.width(1)
    v = b.const(np.abs(b.rng.standard_normal(c)) + 0.5)
    return b.op("BatchNormalization", x, b.vector(c, around=1), b.vector(c), b.vector(c), v, epsilon=1e-3)


def squeeze_excite(b: Builder, x: Tensor) -> Tensor:
    """A gate per channel from the mean over space."""
    c, axes = x.width(1), list(range(2, len(x.shape)))
    small = [x.shape[0], c, *[1] * len(axes)]
    pooled = b.reduce("Mean", x, axes) if b.chance(0.4) else b.op("GlobalAveragePool", x, shape=small)
    if b.chance(0.4):  # the same with matrices
        flat = b.reshape(pooled, x.shape[0], c) if b.chance(0.5) else b.squeeze(pooled, axes)
        hidden = b.op("Relu", linear2d(b, flat, 4))
        gate = b.reshape(b.op("Sigmoid", linear2d(b, hidden, c)), *small)
    else:
        gate = b.op("Sigmoid", exact(b, b.op("Relu", exact(b, pooled, 4)), c))
    return b.op("Mul", x, gate) if b.chance(0.5) else b.op("Mul", gate, x, shape=x.shape)


def pool(b: Builder, x: Tensor) -> Tensor:
    """Windows of 3, or of 2 where space can shrink."""
    rank = len(x.shape) - 2
    kind = b.pick(["MaxPool", "AveragePool"])
    if all(n % 2 == 0 and n >= 8 for n in space(x)) and b.chance(0.3):
        shape = [*x.shape[:2], *(n // 2 for n in space(x))]
        return b.op(kind, x, shape=shape, kernel_shape=[2] * rank, strides=[2] * rank)
    return b.op(kind, x, kernel_shape=[3] * rank, pads=[1] * 2 * rank)


def residual(b: Builder, x: Tensor) -> Tensor:
    """x + f(x), with an optional scale on the branch."""
    y = activation(b, conv(b, x))
    y = any_block(b, y) if b.chance(0.3) else y
    y = resized(b, exact(b, y, x.width(1)), x)
    if b.chance(0.3):
        y = b.op("Mul", y, per_channel(b, y, 0.5))
    return b.op("Add", x, y) if b.chance(0.5) else b.op("Sum", y, x)


def branches(b: Builder, x: Tensor) -> Tensor:
    """Two or three paths put side by side; one may be x itself."""
    paths = [resized(b, conv(b, x), x) for _ in range(b.pick([1, 2]))] + [b.pick([x, pool_same(b, x)])]
    b.random.shuffle(paths)
    shape = [x.shape[0], sum(p.width(1) for p in paths), *space(x)]
    axis = b.pick([1, 1 - len(shape)]) if b.opset >= 11 else 1
    return b.op("Concat", *paths, shape=shape, axis=axis)


def pool_same(b: Builder, x: Tensor) -> Tensor:
    """A pool that keeps the size."""
    rank = len(x.shape) - 2
    return b.op("MaxPool", x, kernel_shape=[3] * rank, pads=[1] * 2 * rank)


def nhwc(b: Builder, x: Tensor) -> Tensor:
    """Channels last and back, with a matrix or a norm between."""
    rank = len(x.shape)
    y = b.transpose(x, 0, *range(2, rank), 1)
    out = x.width(1)
    if b.chance(0.5):
        out = channels(b)
        y = b.op("MatMul", y, b.weight(x.width(1), out, fan=x.width(1)), shape=[*y.shape[:-1], out])
        y = b.op("Add", y, b.vector(out)) if b.chance(0.6) else b.op("Add", b.vector(out), y, shape=y.shape)
    elif b.opset >= 17:
        y = b.op("LayerNormalization", y, b.vector(out, around=1), b.vector(out), axis=-1)
    y = gelu(b, y) if b.chance(0.5) else y
    return b.transpose(y, 0, rank - 1, *range(1, rank - 1))


def branched(b: Builder, x: Tensor) -> Tensor:
    """An If whose bodies read a tensor and a weight of the outer graph."""
    from tests.fuzz.control import choose

    return choose(b, x)


def unusual(b: Builder, x: Tensor) -> Tensor:
    """What is not special to images."""
    return rare.any_block(b, x, 1)


def half_cast(b: Builder, x: Tensor) -> Tensor:
    """Through float64 and back."""
    wide = b.op("Cast", x, to=TensorProto.DOUBLE)
    return b.op("Cast", b.op("Neg", wide), to=TensorProto.FLOAT)


BLOCKS: list[Block] = [
    conv, residual, branches, batch_norm, activation, parts_of, squeeze_excite, pool, conv_transpose,
    group_norm, channel_shuffle, pixel_shuffle, padded, tiled, gathered, nhwc, quantised, einsum,
    constant_left, standardised, branched, half_cast, unusual, unusual, unusual,
]  # fmt: skip


def any_block(b: Builder, x: Tensor) -> Tensor:
    """One of all; widths stay small."""
    if x.width(1) > 32:
        return exact(b, x, 8)
    if x.width(1) < 3:
        return exact(b, x, channels(b))
    block: Block = b.pick(BLOCKS)
    return block(b, x)
