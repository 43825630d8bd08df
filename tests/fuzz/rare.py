"""Blocks for any layout, given the dimension of the channels: statistics, look-ups, reorderings."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import TensorProto, helper

from tests.fuzz.builder import Builder, Size, Tensor

Block = Callable[[Builder, Tensor, int], Tensor]


def _at(x: Tensor, dim: int, size: Size) -> list[Size]:
    """The shape of x with another size at one dimension."""
    return [*x.shape[:dim], size, *x.shape[dim + 1 :]]


def statistic(b: Builder, x: Tensor, dim: int) -> Tensor:
    """x shifted or scaled by a reduction over some of its dimensions."""
    kind = b.pick(["Mean", "Sum", "Max", "Min", "L1", "L2", "SumSquare", "LogSumExp", "Prod"])
    own = [d for d in range(1, len(x.shape)) if isinstance(x.shape[d], int)]
    axes = sorted({dim, b.pick(own)}) if b.chance(0.5) else [b.pick(own)]
    small = b.op("Tanh", b.reduce(kind, b.op("Tanh", x) if kind == "Prod" else x, axes))
    return b.op(b.pick(["Sub", "Mul", "Add"]), x, small)


def softmaxes(b: Builder, x: Tensor, dim: int) -> Tensor:
    """Softmax over any static dimension, or over all from there on before opset 13."""
    own = [d for d in range(1, len(x.shape)) if isinstance(x.shape[d], int)]
    kind = b.pick(["Softmax", "LogSoftmax", "Softmax"])
    return b.op(kind, x, axis=b.pick(own))


def normed(b: Builder, x: Tensor, dim: int) -> Tensor:
    """LpNormalization, MeanVarianceNormalization, LRN, or LayerNorm over several dimensions."""
    kind = b.pick(["lp", "layer", "lrn", "mvn"])
    tail = x.shape[1:]
    if kind == "layer" and b.opset >= 17 and all(isinstance(s, int) for s in tail):
        sizes = [x.width(d) for d in range(1, len(x.shape))]
        return b.op("LayerNormalization", x, b.vector(*sizes, around=1), axis=1)
    if kind == "lrn" and dim == 1 and len(x.shape) == 4:
        return b.op("LRN", x, size=3)
    if kind == "mvn" and b.opset >= 13 and len(x.shape) == 4:
        return b.op("MeanVarianceNormalization", x, axes=[dim] if b.chance(0.5) else [0, 2, 3])
    return b.op("LpNormalization", x, axis=dim, p=b.pick([2, 1]))


def flipped(b: Builder, x: Tensor, dim: int) -> Tensor:
    """Every second channel, or all in reverse."""
    c = x.width(dim)
    if b.opset < 10:
        return x
    if b.chance(0.5):
        first = b.pick([0, 1])
        even = b.slice(x, dim, first, c, 2)
        odd = b.slice(x, dim, 1 - first, c, 2)
        if even.shape == odd.shape and b.chance(0.5):  # interleaved rotation: stack the pairs and flatten
            pair = [b.unsqueeze(b.op("Neg", odd), dim + 1), b.unsqueeze(even, dim + 1)]
            both = b.op(
                "Concat", *pair, shape=[*pair[0].shape[: dim + 1], 2, *x.shape[dim + 1 :]], axis=dim + 1
            )
            return b.reshape(both, *x.shape) if sum(isinstance(s, str) for s in x.shape) < 2 else even
        return even
    ends = (b.ints([-1]), b.ints([-(2**31)]))
    return b.op("Slice", x, *ends, b.ints([dim]), b.ints([-1]), shape=x.shape)


def outer(b: Builder, x: Tensor, dim: int) -> Tensor:
    """A map of means over space times a vector of means over channels."""
    others = [d for d in range(1, len(x.shape)) if d != dim]
    where = b.op("Sigmoid", b.reduce("Mean", x, [dim]))
    what = b.reduce(b.pick(["Mean", "Max"]), x, others)
    return b.op("Add", x, b.op("Mul", what, where, shape=x.shape))


def gram(b: Builder, x: Tensor, dim: int) -> Tensor:
    """x times a square matrix of its own inner products."""
    if len(x.shape) != 3:
        return outer(b, x, dim)
    turned = b.transpose(x, 0, 2, 1)
    n, p, q = x.shape
    if b.chance(0.5):
        square = b.op("Tanh", b.op("MatMul", x, turned, shape=[n, p, p]))
        return b.op("MatMul", square, x, shape=x.shape)
    square = b.op("Tanh", b.op("MatMul", turned, x, shape=[n, q, q]))
    return b.op("MatMul", x, square, shape=x.shape)


def scattered(b: Builder, x: Tensor, dim: int) -> Tensor:
    """Entries looked up in order of size, a running sum, or elements put at constant places."""
    kind = b.pick(["cumsum", "topk", "elements", "argmax"])
    own = [d for d in range(1, len(x.shape)) if isinstance(x.shape[d], int) and x.width(d) > 2]
    axis = b.pick(own or [dim])
    if kind == "cumsum" and b.opset >= 11:
        return b.op("CumSum", x, b.initializer(np.array(axis, np.int64 if b.chance(0.5) else np.int32)))
    if kind == "topk" and b.opset >= 10:
        shape = _at(x, axis, 2)
        return b.many("TopK", [x, b.ints([2])], [shape, shape], axis=axis)[0]
    if kind == "elements" and b.opset >= 11 and all(isinstance(s, int) for s in x.shape):
        sizes = _at(x, axis, 2)
        picks = b.initializer(b.rng.integers(0, x.width(axis), [int(s) for s in sizes]))
        return b.op("GatherElements", x, picks, shape=sizes, axis=axis)
    best = b.op("Cast", b.op("ArgMax", x, shape=_at(x, axis, 1), axis=axis, keepdims=1), to=TensorProto.FLOAT)
    return b.op("Add", x, b.op("Mul", best, b.scalar(0.1)))


def filled(b: Builder, x: Tensor, dim: int) -> Tensor:
    """Channels added that are one constant, made by ConstantOfShape or Expand of a scalar."""
    sizes = _at(x, dim, b.pick([1, 2, 3]))
    target = b.shape_tensor(sizes, x)
    if b.chance(0.5):
        value = helper.make_tensor(b.name("fill"), TensorProto.FLOAT, [1], [0.5])
        new = b.op("ConstantOfShape", target, shape=sizes, value=value)
    else:
        new = b.op("Expand", b.scalar(0.5), target, shape=sizes)
    both = [new, x] if b.chance(0.5) else [x, new]
    width = x.width(dim) + int(sizes[dim])
    return b.op("Concat", *both, shape=_at(x, dim, width), axis=dim)


def regrouped(b: Builder, x: Tensor, dim: int) -> Tensor:
    """Channels and the next static dimension merged and cut elsewhere, then put back."""
    sizes = x.shape
    if (
        sum(isinstance(s, str) for s in sizes) > 1
        or dim + 1 >= len(sizes)
        or not isinstance(sizes[dim + 1], int)
    ):
        return x
    p, q = x.width(dim), x.width(dim + 1)
    cut = b.pick([d for d in (2, 3, 4, 6) if (p * q) % d == 0] or [1])
    y = b.reshape(x, *sizes[:dim], p * q // cut, cut, *sizes[dim + 2 :])
    return b.reshape(b.op("Neg", y), *sizes)


def summed_pieces(b: Builder, x: Tensor, dim: int) -> Tensor:
    """Channels as groups that are added, the largest of which is taken (maxout), or that are weighted."""
    c = x.width(dim)
    groups = b.pick([g for g in (2, 3, 4) if c % g == 0] or [1])
    if sum(isinstance(s, str) for s in x.shape) > 1:
        return x
    first = b.chance(0.5)
    pair = (groups, c // groups) if first else (c // groups, groups)
    y = b.reshape(x, *x.shape[:dim], *pair, *x.shape[dim + 1 :])
    return b.reduce(b.pick(["Sum", "Max", "Mean"]), y, [dim if first else dim + 1], keep=False)


def repeated(b: Builder, x: Tensor, dim: int) -> Tensor:
    """Each channel several times in a row: Unsqueeze, Expand or Tile, Reshape."""
    c = x.width(dim)
    if c > 12 or sum(isinstance(s, str) for s in x.shape) > 1:
        return x
    y = b.unsqueeze(x, dim + 1)
    shape = _at(y, dim + 1, 2)
    if b.chance(0.5):
        y = b.op("Expand", y, b.shape_tensor(shape, y), shape=shape)
    else:
        y = b.op("Tile", y, b.ints([2 if d == dim + 1 else 1 for d in range(len(shape))]), shape=shape)
    return b.reshape(y, *_at(x, dim, 2 * c))


def blended(b: Builder, x: Tensor, dim: int) -> Tensor:
    """Max, Mean or Where of the tensor and a constant as large as it, or of two halves."""
    tail = [x.width(d) for d in range(1, len(x.shape)) if isinstance(x.shape[d], int)]
    if len(tail) < len(x.shape) - 1:
        return x
    table = b.vector(*tail, around=0.1)
    kind = b.pick(["Max", "Mean", "Where", "Sum"])
    if kind == "Where":
        return b.op("Where", b.initializer(b.rng.random(tail) < 0.5, "mask"), x, table, shape=x.shape)
    return b.op(kind, x, table, b.op("Neg", x))


BLOCKS: list[Block] = [
    statistic, softmaxes, normed, flipped, outer, gram, scattered, filled, regrouped, summed_pieces, repeated,
    blended,
]  # fmt: skip


def any_block(b: Builder, x: Tensor, dim: int) -> Tensor:
    """One of all."""
    block: Block = b.pick(BLOCKS)
    return block(b, x, dim)
