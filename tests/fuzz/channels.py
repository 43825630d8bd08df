"""Blocks that cut, move and mix channels, and convolutions in unusual spellings."""

from __future__ import annotations

import numpy as np

from tests.fuzz.builder import Builder, Tensor
from tests.fuzz.convolutions import channels, conv, divisor, per_channel, resized, space
from tests.fuzz.pointwise import activation


def parts_of(b: Builder, x: Tensor) -> Tensor:
    """Split or sliced channels, one part changed, put together again or multiplied."""
    c = x.width(1)
    first = int(b.pick([n for n in (c // 2, c // 3, 1) if 0 < n < c]))
    how = b.pick(["split", "slice", "chunk" if c % 2 == 0 and b.opset >= 11 else "split"])
    if how == "chunk":
        low, high = b.chunk(x, 1)
    elif how == "split":
        low, high = b.split(x, 1, [first, c - first])
    else:
        low, high = b.slice(x, 1, 0, first), b.slice(x, 1, first, c)
    high = activation(b, high)
    if low.shape == high.shape and b.chance(0.4):
        return b.op("Mul", low, high)
    if b.chance(0.4):
        high = resized(b, conv(b, high), x)
    both = [low, high] if b.chance(0.5) else [high, low]
    return b.op("Concat", *both, shape=[x.shape[0], low.width(1) + high.width(1), *space(x)], axis=1)


def channel_shuffle(b: Builder, x: Tensor) -> Tensor:
    """Reshape, Transpose, Reshape."""
    n, c, groups = x.shape[0], x.width(1), divisor(b, x.width(1))
    wide = b.reshape(x, n, groups, c // groups, *space(x))
    turned = b.transpose(wide, 0, 2, 1, *range(3, len(wide.shape)))
    return b.reshape(turned, n, c, *space(x))


def pixel_shuffle(b: Builder, x: Tensor) -> Tensor:
    """Channels to space and back, as ops or as Reshape, Transpose, Reshape."""
    if len(x.shape) != 4 or x.width(1) % 4 or max(space(x)) > 8:
        return activation(b, x)
    n, c, (h, w) = x.shape[0], x.width(1) // 4, space(x)
    up = [n, c, 2 * h, 2 * w]
    how = b.pick(["DCR", "CRD", "reshape"])
    if how == "reshape":
        six = b.transpose(b.reshape(x, n, c, 2, 2, h, w), 0, 1, 4, 2, 5, 3)
        y = b.reshape(six, *up)
    else:
        y = b.op("DepthToSpace", x, shape=up, blocksize=2, mode=how if b.opset >= 11 else None)
    if b.chance(0.5):
        return b.op("SpaceToDepth", conv(b, y, c, 1), shape=x.shape, blocksize=2) if c > 1 else y
    return y


def padded(b: Builder, x: Tensor) -> Tensor:
    """Channels padded with constants, as ResNets widen a shortcut."""
    return b.pad(x, 1, b.pick([0, 2]), b.pick([2, 1, 4]), b.pick([0.0, 0.5]))


def tiled(b: Builder, x: Tensor) -> Tensor:
    """Channels repeated."""
    repeats = [1] * len(x.shape)
    repeats[1] = 2
    return b.op("Tile", x, b.ints(repeats), shape=[x.shape[0], 2 * x.width(1), *x.shape[2:]])


def gathered(b: Builder, x: Tensor) -> Tensor:
    """Channels picked by constant positions: a run, counted from either end, or any."""
    c = x.width(1)
    kind = b.pick(["run", "back", "any", "one"])
    if kind == "one":
        index = b.initializer(np.array(b.pick([0, c - 1, -1]), np.int64))
        return b.unsqueeze(b.op("Gather", x, index, shape=[x.shape[0], *x.shape[2:]], axis=1), 1)
    start = b.random.randrange(c // 2)
    runs = {"run": list(range(start, c)), "back": list(range(start - c, 0))}
    picks = runs.get(kind) or [b.random.randrange(c) for _ in range(4)]
    return b.op("Gather", x, b.ints(picks), shape=[x.shape[0], len(picks), *x.shape[2:]], axis=1)


def group_norm(b: Builder, x: Tensor) -> Tensor:
    """GroupNorm in three spellings, or InstanceNorm."""
    n, c, groups = x.shape[0], x.width(1), divisor(b, x.width(1))
    if b.opset >= 21 and b.chance(0.4):
        return b.op("GroupNormalization", x, b.vector(c, around=1), b.vector(c), num_groups=groups)
    if b.chance(0.25):
        return b.op("InstanceNormalization", x, b.vector(c, around=1), b.vector(c))
    ones, zeros = (b.initializer(np.full(groups, v, np.float32)) for v in (1, 0))
    y = b.op(
        "InstanceNormalization",
        b.reshape(x, n, groups, -(-c // groups) * int(np.prod(space(x)))),
        ones,
        zeros,
    )
    y = b.reshape(y, *x.shape)
    return b.op("Add", b.op("Mul", y, per_channel(b, y, 1.0)), per_channel(b, y, 0.0))


def quantised(b: Builder, x: Tensor) -> Tensor:
    """A convolution whose weight is stored in 8 bits, per tensor or per channel."""
    if b.opset < 10:
        return conv(b, x)
    c, out, rank = x.width(1), channels(b), len(x.shape) - 2
    codes = b.initializer(b.rng.integers(-100, 100, (out, c, *[1] * rank)).astype(np.int8), "q")
    if b.opset >= 13 and b.chance(0.6):
        scale = b.initializer((0.01 * np.abs(b.rng.standard_normal(out)) + 0.002).astype(np.float32))
        zero = b.initializer(b.rng.integers(-5, 5, out).astype(np.int8)) if b.chance(0.5) else None
        w = b.op("DequantizeLinear", codes, scale, zero, axis=0)
    else:
        w = b.op("DequantizeLinear", codes, b.initializer(np.array(0.01, np.float32)))
    return b.op("Conv", x, w, b.vector(out), shape=[x.shape[0], out, *space(x)])


def einsum(b: Builder, x: Tensor) -> Tensor:
    """A 1x1 convolution as an Einsum."""
    if b.opset < 12 or len(x.shape) != 4:
        return conv(b, x)
    out = channels(b)
    shape = [x.shape[0], out, *space(x)]
    if b.chance(0.5):
        return b.op("Einsum", x, b.weight(out, x.width(1)), shape=shape, equation="nchw,oc->nohw")
    w = b.weight(x.width(1), out, fan=x.width(1))
    return b.op(
        "Einsum", w, x, shape=shape, equation="co, b c ... -> b o ..." if b.chance(0.5) else "co,bchw->bohw"
    )


def constant_left(b: Builder, x: Tensor) -> Tensor:
    """A matrix from the left over channels: `[O, C] @ [N, C, L]`."""
    n, c, out = x.shape[0], x.width(1), channels(b)
    flat = b.reshape(x, n, c, int(np.prod(space(x))))
    y = b.op("MatMul", b.weight(out, c), flat, shape=[n, out, flat.shape[2]])
    return b.reshape(y, n, out, *space(x))


def standardised(b: Builder, x: Tensor) -> Tensor:
    """A weight that is standardised at run time, then convolves."""
    c, out, rank = x.width(1), channels(b), len(x.shape) - 2
    w = b.weight(out, c, *[1] * rank)
    axes = list(range(1, rank + 2))
    centred = b.op("Sub", w, b.reduce("Mean", w, axes))
    square = b.reduce("Mean", b.op("Mul", centred, centred), axes)
    w = b.op("Div", centred, b.op("Sqrt", b.op("Add", square, b.scalar(1e-3))))
    return b.op("Conv", x, w, shape=[x.shape[0], out, *space(x)])
