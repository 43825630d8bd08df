"""Blocks of convolutional nets: `[N, C, *space]` to the same layout, in one, two or three spatial dimensions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import TensorProto

from tests.fuzz import rare
from tests.fuzz.builder import Builder, Tensor
from tests.fuzz.pointwise import activation, gelu

Block = Callable[[Builder, Tensor], Tensor]


def space(x: Tensor) -> list[int]:
    """The spatial sizes."""
    return [x.width(d) for d in range(2, len(x.shape))]


def channels(b: Builder) -> int:
    """A width."""
    return int(b.pick([4, 6, 8, 12, 16]))


def divisor(b: Builder, *widths: int) -> int:
    """A number greater than 1, if any, that divides all of them."""
    return int(b.pick([d for d in (2, 3, 4) if all(w % d == 0 for w in widths)] or [1]))


def per_channel(b: Builder, x: Tensor, around: float) -> Tensor:
    """A vector that broadcasts over space, `[C, 1, ...]`, `[1, C, 1, ...]` or the same by Unsqueeze."""
    ones = [1] * (len(x.shape) - 2)
    style = b.pick(["C11", "1C11", "unsqueeze"])
    if style == "unsqueeze":
        v = b.vector(x.width(1), around=around)
        for _ in ones:
            v = b.unsqueeze(v, len(v.shape))
        return v
    return b.vector(*([1] if style == "1C11" else []), x.width(1), *ones, around=around)


def conv(b: Builder, x: Tensor, out: int | None = None, kernel: int | None = None) -> Tensor:
    """Dense, grouped or depthwise, with a bias, without, or with one that is added behind it."""
    width, rank = x.width(1), len(x.shape) - 2
    out = out or channels(b)
    kind = b.pick(["dense", "dense", "depthwise", "multiplier", "grouped"])
    group = {"dense": 1, "depthwise": width, "multiplier": width, "grouped": divisor(b, width, out)}[kind]
    if out % group:
        out = width * (2 if kind == "multiplier" else 1)
    kernel = kernel or b.pick([1, 3])
    stride = 2 if kernel > 1 and min(space(x)) >= 8 and b.chance(0.2) else 1
    w = b.weight(out, width // group, *[kernel] * rank)
    bias = b.vector(out) if b.chance(0.6) else None
    shape = [x.shape[0], out, *((n - 1) // stride + 1 for n in space(x))]
    y = b.op(
        "Conv", x, w, bias, shape=shape, group=group if group > 1 or b.chance(0.5) else None,
        kernel_shape=[kernel] * rank, pads=[kernel // 2] * 2 * rank, strides=[stride] * rank,
    )  # fmt: skip
    return b.op("Add", y, per_channel(b, y, 0.0)) if bias is None and b.chance(0.2) else y


def exact(b: Builder, x: Tensor, out: int) -> Tensor:
    """A dense convolution to a given width."""
    rank = len(x.shape) - 2
    w = b.weight(out, x.width(1), *[1] * rank)
    return b.op("Conv", x, w, b.vector(out) if b.chance(0.5) else None, shape=[x.shape[0], out, *space(x)])


def conv_transpose(b: Builder, x: Tensor) -> Tensor:
    """Dense or grouped; weights are stored input first."""
    rank, out = len(x.shape) - 2, channels(b)
    group = b.pick([1, divisor(b, x.width(1), out)])
    factor = 2 if max(space(x)) <= 8 and b.chance(0.3) else 1
    w = b.weight(x.width(1), out // group, *[factor] * rank, fan=x.width(1) // group)
    bias = b.vector(out) if b.chance(0.5) else None
    shape = [x.shape[0], out, *(n * factor for n in space(x))]
    return b.op("ConvTranspose", x, w, bias, shape=shape, group=group, strides=[factor] * rank)


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


def linear2d(b: Builder, x: Tensor, out: int) -> Tensor:
    """Gemm or MatMul of `[N, C]`."""
    shape, width = [x.shape[0], out], x.width(1)
    if b.chance(0.3):
        return b.op("MatMul", x, b.weight(width, out, fan=width), shape=shape)
    flip = b.chance(0.6)
    w = b.weight(out, width) if flip else b.weight(width, out, fan=width)
    bias = b.pick([(out,), (1, out), (1,), None if b.opset >= 11 else (out,)])
    left, turned = (b.transpose(x, 1, 0), 1) if b.chance(0.15) else (x, None)
    return b.op(
        "Gemm", left, w, b.vector(*bias) if bias else None, shape=shape, transB=int(flip), transA=turned,
        alpha=b.pick([None, 0.7]),
    )  # fmt: skip


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


def resized(b: Builder, y: Tensor, like: Tensor) -> Tensor:
    """`y` in the space of `like`, by interpolation or pooling."""
    if space(y) == space(like):
        return y
    scales = np.array([1, 1, *(n / m for n, m in zip(space(like), space(y), strict=True))], np.float32)
    shape = [*y.shape[:2], *space(like)]
    if b.opset < 11:
        op = "Upsample" if b.opset < 10 else "Resize"
        return b.op(op, y, b.initializer(scales), shape=shape, mode="nearest")
    modes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    empty = None if b.opset >= 13 else b.initializer(np.zeros(0, np.float32))
    if b.chance(0.5):
        return b.op("Resize", y, empty, b.initializer(scales), shape=shape, **modes)
    none = None if b.opset >= 13 else b.initializer(np.zeros(0, np.float32))
    return b.op("Resize", y, empty, none, b.shape_tensor([*y.shape[:2], *space(like)], y), shape=shape, **modes)


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


def group_norm(b: Builder, x: Tensor) -> Tensor:
    """GroupNorm in three spellings, or InstanceNorm."""
    n, c, groups = x.shape[0], x.width(1), divisor(b, x.width(1))
    if b.opset >= 21 and b.chance(0.4):
        return b.op("GroupNormalization", x, b.vector(c, around=1), b.vector(c), num_groups=groups)
    if b.chance(0.25):
        return b.op("InstanceNormalization", x, b.vector(c, around=1), b.vector(c))
    ones, zeros = (b.initializer(np.full(groups, v, np.float32)) for v in (1, 0))
    y = b.op("InstanceNormalization", b.reshape(x, n, groups, -(-c // groups) * int(np.prod(space(x)))), ones, zeros)
    y = b.reshape(y, *x.shape)
    return b.op("Add", b.op("Mul", y, per_channel(b, y, 1.0)), per_channel(b, y, 0.0))


def padded(b: Builder, x: Tensor) -> Tensor:
    """Channels padded with constants, as ResNets widen a shortcut."""
    return b.pad(x, 1, b.pick([0, 2]), b.pick([2, 1, 4]), b.pick([0.0, 0.5]))


def tiled(b: Builder, x: Tensor) -> Tensor:
    """Channels repeated."""
    repeats = [1] * len(x.shape)
    repeats[1] = 2
    return b.op("Tile", x, b.ints(repeats), shape=[x.shape[0], 2 * x.width(1), *x.shape[2:]])


def gathered(b: Builder, x: Tensor) -> Tensor:
    """Channels picked by constant positions: a run, or any."""
    c = x.width(1)
    kind = b.pick(["run", "any", "one"])
    if kind == "one":
        index = b.initializer(np.array(b.pick([0, c - 1, -1]), np.int64))
        return b.unsqueeze(b.op("Gather", x, index, shape=[x.shape[0], *x.shape[2:]], axis=1), 1)
    start = b.random.randrange(c // 2)
    picks = list(range(start, c)) if kind == "run" else [b.random.randrange(c) for _ in range(4)]
    return b.op("Gather", x, b.ints(picks), shape=[x.shape[0], len(picks), *x.shape[2:]], axis=1)


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
    y = b.op("Conv", x, w, b.vector(out), shape=[x.shape[0], out, *space(x)])
    return y


def einsum(b: Builder, x: Tensor) -> Tensor:
    """A 1x1 convolution as an Einsum."""
    if b.opset < 12 or len(x.shape) != 4:
        return conv(b, x)
    out = channels(b)
    shape = [x.shape[0], out, *space(x)]
    if b.chance(0.5):
        return b.op("Einsum", x, b.weight(out, x.width(1)), shape=shape, equation="nchw,oc->nohw")
    w = b.weight(x.width(1), out, fan=x.width(1))
    return b.op("Einsum", w, x, shape=shape, equation="co, b c ... -> b o ..." if b.chance(0.5) else "co,bchw->bohw")


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
    conv, residual, branches, batch_norm, activation, parts_of, squeeze_excite, pool, conv_transpose, group_norm,
    channel_shuffle, pixel_shuffle, padded, tiled, gathered, nhwc, quantised, einsum, constant_left, standardised,
    branched, half_cast, unusual, unusual, unusual,
]  # fmt: skip


def any_block(b: Builder, x: Tensor) -> Tensor:
    """One of all; widths stay small."""
    if x.width(1) > 32:
        return exact(b, x, 8)
    if x.width(1) < 3:
        return exact(b, x, channels(b))
    block: Block = b.pick(BLOCKS)
    return block(b, x)
