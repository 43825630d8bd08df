"""Convolutions of `[N, C, *space]` in one to three spatial dimensions, and what blocks need around them."""

from __future__ import annotations

import numpy as np

from tests.fuzz.builder import Builder, Tensor


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


def resized(b: Builder, y: Tensor, like: Tensor) -> Tensor:
    """`y` in the space of `like`, by interpolation or pooling."""
    if space(y) == space(like):
        return y
    scales = np.array([1, 1, *(n / m for n, m in zip(space(like), space(y), strict=True))], np.float32)
    shape = [*y.shape[:2], *space(like)]
    if b.opset < 10 and (scales < 1).any() and (scales <= 1).all():  # Upsample only grows
        kernel = [m - n + 1 for n, m in zip(space(like), space(y), strict=True)]
        return b.op("AveragePool", y, shape=shape, kernel_shape=kernel)
    if b.opset < 11:
        op = "Upsample" if b.opset < 10 else "Resize"
        return b.op(op, y, b.initializer(scales), shape=shape, mode="nearest")
    modes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    empty = None if b.opset >= 13 else b.initializer(np.zeros(0, np.float32))
    if b.chance(0.5):
        return b.op("Resize", y, empty, b.initializer(scales), shape=shape, **modes)
    none = None if b.opset >= 13 else b.initializer(np.zeros(0, np.float32))
    return b.op(
        "Resize", y, empty, none, b.shape_tensor([*y.shape[:2], *space(like)], y), shape=shape, **modes
    )


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
