"""Blocks of transformers and recurrent nets: `[N, T, C]` to the same layout; T is a number or dynamic."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.fuzz import control, rare
from tests.fuzz.attention import attention
from tests.fuzz.builder import Builder, Tensor, times
from tests.fuzz.convolutions import conv
from tests.fuzz.pointwise import activation, swish

Block = Callable[[Builder, Tensor], Tensor]


def linear(b: Builder, x: Tensor, out: int, bias: bool | None = None) -> Tensor:
    """MatMul and Add, a Gemm on all tokens, or an Einsum."""
    width, shape = x.width(-1), [*x.shape[:-1], out]
    how = b.pick(["matmul", "matmul", "gemm", "einsum", "left"])
    if how == "gemm" and len(x.shape) == 3:
        flat = b.reshape(x, times(*x.shape[:-1]), width) if _mergeable(x) else None
        if flat is not None:
            w = b.weight(out, width)
            y = b.op(
                "Gemm",
                flat,
                w,
                b.vector(out) if b.chance(0.7) or b.opset < 11 else None,
                shape=[flat.shape[0], out],
                transB=1,
            )
            return b.reshape(y, *shape)
    if how == "einsum" and b.opset >= 12 and len(x.shape) == 3:
        y = b.op("Einsum", x, b.weight(width, out, fan=width), shape=shape, equation="btc,cd->btd")
    elif how == "left" and len(x.shape) == 3:
        flipped = b.transpose(x, 0, 2, 1)
        y = b.op("MatMul", b.weight(out, width), flipped, shape=[shape[0], out, shape[1]])
        y = b.transpose(y, 0, 2, 1)
    else:
        y = b.op("MatMul", x, _right(b, width, out), shape=shape)
    if bias if bias is not None else b.chance(0.6):
        v = b.vector(out)
        y = b.op("Add", y, v) if b.chance(0.5) else b.op("Add", v, y, shape=y.shape)
    return y


def _mergeable(x: Tensor) -> bool:
    return sum(isinstance(s, str) for s in x.shape) == 1


def _right(b: Builder, width: int, out: int) -> Tensor:
    if b.chance(0.3):  # stored as nn.Linear does, transposed in the graph
        return b.transpose(b.weight(out, width), 1, 0)
    return b.weight(width, out, fan=width)


def norm(b: Builder, x: Tensor) -> Tensor:
    """LayerNorm or RMSNorm, as one op or written out; or the L2 norm."""
    kind = b.pick(["layer", "rms", "l2"])
    c, last = x.width(-1), len(x.shape) - 1
    if kind == "l2":
        length = b.reduce("L2", x, [last])
        return b.op("Div", x, b.op("Max", length, b.scalar(1e-3)))
    if kind == "layer" and b.opset >= 17 and b.chance(0.7):
        return b.op(
            "LayerNormalization", x, b.vector(c, around=1), b.vector(c) if b.chance(0.8) else None, axis=-1
        )
    if kind == "rms" and b.opset >= 23 and b.chance(0.5):
        return b.op("RMSNormalization", x, b.vector(c, around=1), axis=-1)
    if kind == "layer":
        x = b.op("Sub", x, mean(b, x))
    square = b.op("Pow", x, b.scalar(2.0)) if b.chance(0.5) else b.op("Mul", x, x)
    spread = b.op("Sqrt", b.op("Add", mean(b, square), b.scalar(1e-3)))
    y = b.op("Div", x, spread) if b.chance(0.5) else b.op("Mul", x, b.op("Reciprocal", spread))
    y = b.op("Mul", y, b.vector(c, around=1))
    return b.op("Add", y, b.vector(c)) if b.chance(0.5) else y


def mean(b: Builder, x: Tensor) -> Tensor:
    """Over the width; of three dimensions the last can be pooled away as well."""
    if len(x.shape) == 3 and b.chance(0.3):
        return b.op("GlobalAveragePool", x, shape=[*x.shape[:2], 1])
    return b.reduce("Mean", x, [len(x.shape) - 1])


def mlp(b: Builder, x: Tensor) -> Tensor:
    """Plain, or gated with two matrices or one that is split."""
    hidden, c = b.pick([6, 8, 12, 16]), x.width(-1)
    kind = b.pick(["plain", "gated", "fused"])
    if kind == "plain":
        return linear(b, activation(b, linear(b, x, hidden)), c)
    if kind == "gated":
        gate, up = linear(b, x, hidden), linear(b, x, hidden)
    elif b.chance(0.5):
        gate, up = b.split(linear(b, x, 2 * hidden), 2, [hidden, hidden])
    else:
        both = linear(b, x, 2 * hidden)
        gate, up = b.slice(both, 2, 0, hidden), b.slice(both, 2, hidden, 2 * hidden)
    return linear(b, b.op("Mul", swish(b, gate), up), c)


def bilinear(b: Builder, x: Tensor) -> Tensor:
    """A weight between two views of the tokens: two sums at once."""
    if b.opset < 12:
        return x
    left, right = linear(b, x, b.pick([4, 6])), activation(b, linear(b, x, b.pick([3, 5])))
    out = b.pick([6, 8])
    weight = b.weight(out, left.width(2), right.width(2))
    shape = [*x.shape[:2], out]
    return b.op("Einsum", left, weight, right, shape=shape, equation="bti,oij,btj->bto")


def residual(b: Builder, x: Tensor) -> Tensor:
    """x + f(norm(x)), or the norm behind the sum."""
    before = b.chance(0.6)
    y = norm(b, x) if before else x
    y = attention(b, y) if b.chance(0.6) else mlp(b, y)
    if b.chance(0.2):
        y = b.op("Mul", y, b.vector(x.width(-1), around=0.5))
    y = b.op("Add", x, y)
    return y if before else norm(b, y)


def position(b: Builder, x: Tensor) -> Tensor:
    """A table of positions is added; for dynamic T it is cut to length."""
    t, c = x.shape[1], x.width(2)
    if isinstance(t, int):
        return b.op("Add", x, b.vector(1, t, c, around=0.1))
    table = b.vector(1, 16, c, around=0.1)
    end = b.size(t, x)
    if b.opset < 10:
        return x
    cut = b.op("Slice", table, b.ints([0]), end, b.ints([1]), shape=[1, t, c])
    return b.op("Add", x, cut)


def class_token(b: Builder, x: Tensor) -> Tensor:
    """A learned token in front, and later taken away."""
    t, c = x.shape[1], x.width(2)
    if not isinstance(t, int):
        return x
    target = b.shape_tensor([x.shape[0], 1, c], x)
    token = b.op("Expand", b.vector(1, 1, c, around=0.1), target, shape=[x.shape[0], 1, c])
    y = b.op("Concat", token, x, shape=[x.shape[0], t + 1, c], axis=1)
    y = residual(b, y)
    return b.slice(y, 1, 1, t + 1)


def mixed_tokens(b: Builder, x: Tensor) -> Tensor:
    """A matrix over tokens, from the left or behind a Transpose."""
    t, c = x.shape[1], x.width(2)
    if not isinstance(t, int):
        return x
    if b.chance(0.5):
        return b.op("MatMul", b.weight(t, t), x, shape=x.shape)
    flipped = b.transpose(x, 0, 2, 1)
    hidden = b.op("MatMul", flipped, b.weight(t, 6, fan=t), shape=[x.shape[0], c, 6])
    back = b.op("MatMul", b.op("Relu", hidden), b.weight(6, t, fan=6), shape=flipped.shape)
    return b.transpose(back, 0, 2, 1)


def windows(b: Builder, x: Tensor) -> Tensor:
    """Tokens on a grid, cut into windows, worked on, and put back; sometimes shifted."""
    n, t, c = x.shape[0], x.shape[1], x.width(2)
    if t != 16:
        return x
    grid = b.reshape(x, n, 4, 4, c)
    shift = b.chance(0.3)
    if shift:
        grid = b.op("Concat", b.slice(grid, 1, 1, 4), b.slice(grid, 1, 0, 1), shape=grid.shape, axis=1)
    six = b.transpose(b.reshape(grid, n, 2, 2, 2, 2, c), 0, 1, 3, 2, 4, 5)
    inner = b.reshape(six, times(n, 4), 4, c)
    inner = attention(b, inner) if b.chance(0.5) else mlp(b, inner)
    six = b.transpose(b.reshape(inner, n, 2, 2, 2, 2, c), 0, 1, 3, 2, 4, 5)
    grid = b.reshape(six, n, 4, 4, c)
    return b.op("Add", x, b.reshape(grid, n, t, c))


def recurrent(b: Builder, x: Tensor) -> Tensor:
    """LSTM, GRU or RNN, one way or both, its outputs or its last state."""
    kind, c, h = b.pick(["LSTM", "GRU", "RNN"]), x.width(2), b.pick([3, 4, 6])
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    both = b.chance(0.4)
    d = 2 if both else 1
    n, t = x.shape[:2]
    if isinstance(n, str) and isinstance(t, str) and n == t:
        return x
    sequence = b.transpose(x, 1, 0, 2)
    w, r = b.weight(d, gates * h, c, fan=c), b.weight(d, gates * h, h, fan=h)
    bias = b.vector(d, 2 * gates * h) if b.chance(0.7) else None
    whole = [d, n, h]
    state = [b.op("Expand", b.vector(d, 1, h), b.shape_tensor(whole), shape=whole)] if b.chance(0.3) else []
    reset = b.pick([0, 1]) if kind == "GRU" else None
    direction = "bidirectional" if both else b.pick(["forward", "reverse"])
    last = b.chance(0.2)
    shapes: list[list[int | str] | None] = [None if last else [t, d, n, h], [d, n, h]]
    outs = b.many(
        kind, [sequence, w, r, bias, None, *state], shapes, hidden_size=h, direction=direction,
        linear_before_reset=reset,
    )  # fmt: skip
    if last:
        y = b.transpose(outs[1], 1, 0, 2)  # [N, D, H]: directions are the tokens
        y = b.reshape(y, n, d * h)
        return b.op("Add", b.unsqueeze(linear2(b, y, c), 1), x, shape=x.shape)
    if both:
        y = b.reshape(b.transpose(outs[0], 0, 2, 1, 3), t, n, 2 * h) if _one_dynamic(t, n) else outs[0]
        if len(y.shape) == 4:
            y = b.reduce("Sum", y, [1], keep=False)
    else:
        y = b.squeeze(outs[0], [1])
    return b.transpose(y, 1, 0, 2)


def _one_dynamic(*sizes: int | str) -> bool:
    return sum(isinstance(s, str) for s in sizes) <= 1


def linear2(b: Builder, x: Tensor, out: int) -> Tensor:
    """MatMul of `[N, C]`."""
    return b.op("MatMul", x, b.weight(x.width(1), out, fan=x.width(1)), shape=[x.shape[0], out])


def experts(b: Builder, x: Tensor) -> Tensor:
    """Every token through every expert of a rank-3 weight, weighted by a softmax gate."""
    n, t, c, e, f = x.shape[0], x.shape[1], x.width(2), 3, b.pick([6, 8])
    wide = b.unsqueeze(x, 1)  # [N, 1, T, C]
    hidden = b.op("MatMul", wide, b.weight(e, c, f, fan=c), shape=[n, e, t, f])
    out = b.op("MatMul", b.op("Relu", hidden), b.weight(e, f, c, fan=f), shape=[n, e, t, c])
    gate = b.op("Softmax", linear(b, x, e, bias=False), axis=2)
    gate = b.unsqueeze(b.transpose(gate, 0, 2, 1), 3)
    return b.reduce("Sum", b.op("Mul", out, gate), [1], keep=False)


def chosen_experts(b: Builder, x: Tensor) -> Tensor:
    """The best experts' weights are looked up, or all run and the gates of the best are written into zeros."""
    n, t, c, e, f = x.shape[0], x.shape[1], x.width(2), 4, b.pick([6, 8])
    k = b.pick([1, 2])
    gates = b.op("Softmax", linear(b, x, e, bias=False), axis=2)
    gate, best = b.many("TopK", [gates, b.ints([k])], [[n, t, k]] * 2, axis=2)
    first, second = b.weight(e, c, f, fan=c), b.weight(e, f, c, fan=f)
    if b.chance(0.5):
        wide = b.unsqueeze(b.unsqueeze(x, 2), 2)  # [N, T, 1, 1, C]
        picked = b.op("Gather", first, best, shape=[n, t, k, c, f])
        hidden = b.op("Relu", b.op("MatMul", wide, picked, shape=[n, t, k, 1, f]))
        back = b.op("Gather", second, best, shape=[n, t, k, f, c])
        each = b.reduce("Sum", b.op("MatMul", hidden, back, shape=[n, t, k, 1, c]), [3], keep=False)
        return b.reduce("Sum", b.op("Mul", each, b.unsqueeze(gate, 3)), [2], keep=False)
    zeros = b.op("Mul", gates, b.scalar(0.0))
    written = b.op("ScatterElements", zeros, best, gate, axis=2)
    hidden = b.op("Relu", b.op("MatMul", b.unsqueeze(x, 1), first, shape=[n, e, t, f]))
    each = b.op("MatMul", hidden, second, shape=[n, e, t, c])
    scale = b.unsqueeze(b.transpose(written, 0, 2, 1), 3)
    return b.reduce("Sum", b.op("Mul", each, scale), [1], keep=False)


def any_experts(b: Builder, x: Tensor) -> Tensor:
    """All, or the best."""
    return chosen_experts(b, x) if b.opset >= 11 and b.chance(0.5) else experts(b, x)


def convolved(b: Builder, x: Tensor) -> Tensor:
    """A 1-D convolution over tokens."""
    if not isinstance(x.shape[1], int):
        return x
    return b.transpose(conv(b, b.transpose(x, 0, 2, 1), kernel=3 if x.shape[1] < 8 else 1), 0, 2, 1)


def parts_of(b: Builder, x: Tensor) -> Tensor:
    """Width split and put together in another order, or one tensor twice."""
    c = x.width(2)
    if c % 2 or b.chance(0.3):
        return b.op("Concat", x, x, shape=[*x.shape[:2], 2 * c], axis=2) if c < 16 else x
    low, high = b.split(x, 2, [c // 2, c // 2])
    pair = [high, b.op("Neg", low)] if b.chance(0.6) else [low, high, low]
    return b.op("Concat", *pair, shape=[*x.shape[:2], len(pair) * c // 2], axis=2)


def picked(b: Builder, x: Tensor) -> Tensor:
    """A few tokens, by constant positions."""
    t = x.shape[1]
    if not isinstance(t, int) or t < 4:
        return x
    picks = [0, 1, 2] if b.chance(0.5) else [3, 0, -1, 1]
    return b.op("Gather", x, b.ints(picks), shape=[x.shape[0], len(picks), x.shape[2]], axis=1)


def normalised(b: Builder, x: Tensor) -> Tensor:
    """Softmax over the width."""
    return b.op("Softmax", x, axis=2)


def repeated(b: Builder, x: Tensor) -> Tensor:
    """A layer applied a few times by a loop."""
    return control.repeat(b, x, b.weight(x.width(2), x.width(2)))


def gated_by_mean(b: Builder, x: Tensor) -> Tensor:
    """A gate from the mean over tokens."""
    pooled = b.reduce("Mean", x, [1])
    return b.op("Mul", x, b.op("Sigmoid", linear(b, pooled, x.width(2))))


def scaled_at_run_time(b: Builder, x: Tensor) -> Tensor:
    """Divided by the square root of a size that is read off the tensor."""
    size = b.op("Cast", b.dim_of(x, 2), to=1)
    return b.op("Div", x, b.op("Sqrt", size))


def unusual(b: Builder, x: Tensor) -> Tensor:
    """What is not special to tokens."""
    return rare.any_block(b, x, 2)


def fixed_width(b: Builder, x: Tensor) -> Tensor:
    """To a new width."""
    return linear(b, x, int(b.pick([6, 8, 12, 16])))


def negated(b: Builder, x: Tensor) -> Tensor:
    """A mask over tokens, from their own mean, that adds a large negative number."""
    mean = b.reduce("Mean", x, [2])
    mask = b.op("Cast", b.op("Less", mean, b.scalar(-0.5)), to=1)
    return b.op("Add", x, b.op("Mul", mask, b.initializer(np.array(-3.0, np.float32))))


BLOCKS: list[Block] = [
    residual, mlp, attention, norm, fixed_width, position, activation, class_token, mixed_tokens, windows,
    recurrent, any_experts, convolved, parts_of, picked, normalised, gated_by_mean, scaled_at_run_time, negated,
    repeated, bilinear,
    unusual, unusual, unusual,
]  # fmt: skip


def any_block(b: Builder, x: Tensor) -> Tensor:
    """One of all; widths stay small."""
    block: Block = b.pick(BLOCKS) if x.width(2) <= 24 else fixed_width
    return block(b, x)
