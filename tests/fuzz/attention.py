"""Attention as exporters write it: heads, rotary halves, shared KV heads, heads merged into the batch."""

from __future__ import annotations

import numpy as np

from tests.fuzz.builder import Builder, Size, Tensor, times


def attention(b: Builder, x: Tensor) -> Tensor:
    """`[N, T, C]` to the same shape."""
    from tests.fuzz.tokens import linear

    n, t, c = x.shape[0], x.shape[1], x.width(2)
    heads, width = b.pick([2, 3, 4, 1]), b.pick([2, 4])
    kind = b.pick(["separate", "fused", "grouped"])
    if kind == "fused":
        q, k, v = _fused(b, x, heads, width)
    else:
        kv = 1 if kind == "grouped" and heads != 4 else 2 if kind == "grouped" else heads
        q = _heads(b, linear(b, x, heads * width), heads)
        k, v = (_heads(b, linear(b, x, kv * width), kv) for _ in range(2))
    if b.chance(0.25):
        q, k = rotary(b, q), rotary(b, k)
    if k.shape[1] != heads:
        k, v = (_repeat(b, y, heads) for y in (k, v))
    joined = _merged(b, q, k, v) if _can_merge(q) and b.chance(0.35) else _attend(b, q, k, v)
    y = b.reshape(b.transpose(joined, 0, 2, 1, 3), n, t, heads * width)
    return linear(b, y, c)


def _heads(b: Builder, x: Tensor, heads: int) -> Tensor:
    """`[N, T, H D]` to `[N, H, T, D]`."""
    wide = b.reshape(x, x.shape[0], x.shape[1], heads, x.width(2) // heads)
    return b.transpose(wide, 0, 2, 1, 3)


def _fused(b: Builder, x: Tensor, heads: int, width: int) -> list[Tensor]:
    from tests.fuzz.tokens import linear

    n, t = x.shape[:2]
    whole = linear(b, x, 3 * heads * width)
    how = b.pick(["gather", "split5", "split3", "slice3"])
    if how == "split3":
        return [_heads(b, y, heads) for y in b.split(whole, 2, [heads * width] * 3)]
    if how == "slice3":
        step = heads * width
        return [_heads(b, b.slice(whole, 2, i * step, (i + 1) * step), heads) for i in range(3)]
    five = b.transpose(b.reshape(whole, n, t, 3, heads, width), 2, 0, 3, 1, 4)
    shape: list[Size] = [n, heads, t, width]
    if how == "gather":
        return [
            b.op("Gather", five, b.initializer(np.array(i, np.int64)), shape=shape, axis=0) for i in range(3)
        ]
    return [b.squeeze(y, [0]) for y in b.split(five, 0, [1, 1, 1])]


def rotary(b: Builder, x: Tensor) -> Tensor:
    """x * cos + rotate_half(x) * sin, in halves; the angles depend on the width, or on tokens too."""
    d, t = x.width(3), x.shape[2]
    if d % 2:
        return x
    low, high = b.slice(x, 3, 0, d // 2), b.slice(x, 3, d // 2, d)
    turned = b.op("Concat", b.op("Neg", high), low, shape=x.shape, axis=3)
    rows = t if isinstance(t, int) else 1
    angle = np.tile(b.rng.standard_normal((rows, d // 2)), 2)
    cos, sin = (b.initializer(f(angle).astype(np.float32)) for f in (np.cos, np.sin))
    return b.op("Add", b.op("Mul", x, cos), b.op("Mul", turned, sin))


def _repeat(b: Builder, x: Tensor, heads: int) -> Tensor:
    """Each KV head serves several query heads: Unsqueeze, Expand, Reshape."""
    n, kv, t, d = x.shape[0], x.width(1), x.shape[2], x.width(3)
    times_ = heads // kv
    five = b.unsqueeze(x, 2)
    shape: list[Size] = [n, kv, times_, t, d]
    wide = b.op("Expand", five, b.shape_tensor(shape, five), shape=shape)
    return b.reshape(wide, n, heads, t, d)


def _scale(b: Builder, q: Tensor) -> Tensor:
    how = b.pick(["constant", "run time", "none"])
    if how == "none":
        return q
    if how == "constant":
        return b.op("Mul", q, b.scalar(q.width(3) ** -0.5))
    return b.op("Div", q, b.op("Sqrt", b.op("Cast", b.dim_of(q, len(q.shape) - 1), to=1)))


def _attend(b: Builder, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    n, h, t = q.shape[0], q.shape[1], q.shape[2]
    if b.opset >= 23 and b.chance(0.3):
        return b.op("Attention", q, k, v)
    square: list[Size] = [n, h, t, t]
    if b.opset >= 12 and b.chance(0.2):
        scores = b.op("Einsum", _scale(b, q), k, shape=square, equation="bhqd,bhkd->bhqk")
    else:
        scores = b.op("MatMul", _scale(b, q), b.transpose(k, 0, 1, 3, 2), shape=square)
    if isinstance(t, int) and isinstance(h, int) and b.chance(0.3):
        scores = b.op("Add", scores, b.vector(b.pick([1, h]), t, t))
    return b.op("MatMul", b.op("Softmax", scores, axis=-1 if b.opset >= 11 else 3), v, shape=q.shape)


def _can_merge(q: Tensor) -> bool:
    return isinstance(q.shape[2], int)


def _merged(b: Builder, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Heads and batch are one dimension."""
    n, h, t, d = q.shape[0], q.shape[1], q.shape[2], q.width(3)
    flat = [b.reshape(y, times(n, h), t, d) for y in (_scale(b, q), k, v)]
    scores = b.op("MatMul", flat[0], b.transpose(flat[1], 0, 2, 1), shape=[times(n, h), t, t])
    y = b.op("MatMul", b.op("Softmax", scores, axis=2), flat[2], shape=[times(n, h), t, d])
    return b.reshape(y, n, h, t, d)
