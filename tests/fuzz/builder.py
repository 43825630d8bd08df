"""Constants as exporters hide them, ops as each opset writes them, and shapes as they are computed."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
from onnx import TensorProto

from tests.fuzz.nodes import Array, Nodes, Size, Tensor, times

__all__ = ["Builder", "Size", "Tensor", "times"]

FAR = 2**31 - 1


class Builder(Nodes):
    """Nodes, and what is made of several of them."""

    # --- constants --------------------------------------------------------------------------------

    def const(self, value: Array | Sequence[float], stem: str = "c") -> Tensor:
        """A float constant that may hide behind a chain of constant nodes."""
        array = np.asarray(value, np.float32)
        return self._hidden(array) if self.chance(0.2) else self.initializer(array, stem)

    def _hidden(self, array: Array) -> Tensor:
        kind = self.pick(["Identity", "Transpose", "Reshape", "Cast", "Mul", "Unsqueeze"])
        if kind == "Identity":
            return self.op("Identity", self.op("Identity", self.initializer(array)))
        if kind == "Transpose":
            perm = list(range(array.ndim))
            self.random.shuffle(perm)
            inner = self.initializer(np.ascontiguousarray(array.transpose(perm)))
            return self.op(
                "Transpose", inner, shape=array.shape, perm=[perm.index(i) for i in range(array.ndim)]
            )
        if kind == "Reshape":
            return self.op(
                "Reshape", self.initializer(array.reshape(-1)), self.ints(array.shape), shape=array.shape
            )
        if kind == "Cast":
            return self.op("Cast", self.initializer(array.astype(np.float64)), to=TensorProto.FLOAT)
        if kind == "Mul":
            return self.op("Mul", self.initializer(array), self.initializer(np.float32(1.25).reshape(())))
        return self.squeeze(self.initializer(array[None]), [0])

    def weight(self, *shape: int, fan: int | None = None) -> Tensor:
        """A weight of unit gain for `fan` summands; sometimes one that was used before."""
        known = self.weights.setdefault(shape, [])
        if known and self.chance(0.15):
            return known[self.random.randrange(len(known))]
        scale = 1 / np.sqrt(fan if fan is not None else prod(shape[1:]) or 1)
        known.append(self.const(self.rng.standard_normal(shape) * scale, "w"))
        return known[-1]

    def vector(self, *shape: int, around: float = 0.0) -> Tensor:
        """A bias or a scale; a bias is sometimes the one zero vector of its size."""
        if around == 0 and self.chance(0.2):
            key = ("zeros", shape)
            if key not in self.shared:
                self.shared[key] = self.initializer(np.zeros(shape, np.float32), "zeros")
            return self.shared[key]
        return self.const(around + 0.3 * self.rng.standard_normal(shape), "v")

    # --- ops whose spelling depends on the opset ---------------------------------------------------

    def squeeze(self, x: Tensor, axes: Sequence[int]) -> Tensor:
        """Drop dimensions of size 1."""
        shape = [s for i, s in enumerate(x.shape) if i not in axes]
        if self.opset < 13:
            return self.op("Squeeze", x, shape=shape, axes=list(axes))
        return self.op("Squeeze", x, self.ints(list(axes)), shape=shape)

    def unsqueeze(self, x: Tensor, axis: int) -> Tensor:
        """A new dimension of size 1."""
        shape = [*x.shape[:axis], 1, *x.shape[axis:]]
        if self.opset < 13:
            return self.op("Unsqueeze", x, shape=shape, axes=[axis])
        return self.op("Unsqueeze", x, self.ints([axis]), shape=shape)

    def slice(self, x: Tensor, axis: int, start: int, end: int, step: int = 1) -> Tensor:
        """Entries from `start` to `end` of a static axis, with bounds as exporters write them."""
        total = x.width(axis)
        shape = list(x.shape)
        shape[axis] = len(range(*slice(start, end, step).indices(total)))
        low = start - total if start and self.chance(0.2) else start
        high = (
            FAR
            if end == total and self.chance(0.5)
            else end - total
            if end < total and self.chance(0.3)
            else end
        )
        at = axis - len(x.shape) if self.chance(0.3) else axis
        if self.opset < 10:
            return self.op("Slice", x, shape=shape, starts=[low], ends=[high], axes=[axis])
        stride = self.ints([step]) if step != 1 or self.chance(0.3) else None
        return self.op("Slice", x, self.ints([low]), self.ints([high]), self.ints([at]), stride, shape=shape)

    def split(self, x: Tensor, axis: int, sizes: Sequence[int]) -> list[Tensor]:
        """The parts of a static axis."""
        shapes = [[*x.shape[:axis], n, *x.shape[axis + 1 :]] for n in sizes]
        even = len(set(sizes)) == 1
        if self.opset < 13:
            return self.many(
                "Split", [x], shapes, axis=axis, split=None if even and self.chance(0.5) else list(sizes)
            )
        if even and self.chance(0.5):
            return self.many(
                "Split", [x], shapes, axis=axis, num_outputs=len(sizes) if self.opset >= 18 else None
            )
        return self.many("Split", [x, self.ints(list(sizes))], shapes, axis=axis)

    def chunk(self, x: Tensor, axis: int) -> list[Tensor]:
        """Two halves cut at a place computed from the shape, as TorchScript writes `chunk`."""
        half = x.width(axis) // 2
        middle = self.op("Div", self.dim_of(x, axis), self.ints([2]), shape=[1])
        shape = [*x.shape[:axis], half, *x.shape[axis + 1 :]]
        end = self.op("Mul", middle, self.ints([2]), shape=[1])
        low = self.op("Slice", x, self.ints([0]), middle, self.ints([axis]), shape=shape)
        return [low, self.op("Slice", x, middle, end, self.ints([axis]), shape=shape)]

    def pad(self, x: Tensor, axis: int, before: int, after: int, value: float = 0.0) -> Tensor:
        """A static axis made longer by constants."""
        rank = len(x.shape)
        pads = [0] * (2 * rank)
        pads[axis], pads[axis + rank] = before, after
        shape = list(x.shape)
        shape[axis] = x.width(axis) + before + after
        if self.opset < 11:
            return self.op("Pad", x, shape=shape, pads=pads, value=value)
        fill = self.initializer(np.array(value, np.float32)) if value or self.chance(0.5) else None
        if self.opset >= 18 and self.chance(0.5):
            return self.op("Pad", x, self.ints([before, after]), fill, self.ints([axis]), shape=shape)
        return self.op("Pad", x, self.ints(pads), fill, shape=shape)

    def clip(self, x: Tensor, low: float, high: float) -> Tensor:
        """Bounds as attributes or inputs."""
        if self.opset < 11:
            return self.op("Clip", x, min=low, max=high)
        bounds = [self.initializer(np.array(v, np.float32)) for v in (low, high)]
        return self.op("Clip", x, *bounds)

    def reduce(self, kind: str, x: Tensor, axes: Sequence[int], keep: bool = True) -> Tensor:
        """`ReduceMean` and its relatives."""
        shape = [1 if i in axes else s for i, s in enumerate(x.shape) if keep or i not in axes]
        at = [a - len(x.shape) for a in axes] if self.chance(0.3) and self.opset >= 11 else list(axes)
        since = 13 if kind == "Sum" else 18
        if self.opset < since:
            return self.op(f"Reduce{kind}", x, shape=shape, axes=at, keepdims=int(keep))
        return self.op(f"Reduce{kind}", x, self.ints(at), shape=shape, keepdims=int(keep))

    def transpose(self, x: Tensor, *perm: int) -> Tensor:
        """Output dimension i is input dimension perm[i]."""
        return self.op("Transpose", x, shape=[x.shape[p] for p in perm], perm=list(perm))

    # --- shapes -----------------------------------------------------------------------------------

    def dim_of(self, x: Tensor, dim: int) -> Tensor:
        """One size of a tensor as an int64 vector of length 1, in one of the exporters' spellings."""
        style = self.pick(["gather", "slice", "shape"])
        if style == "shape" and self.opset >= 15:
            return self.op("Shape", x, shape=[1], start=dim, end=dim + 1)
        shape = self.op("Shape", x, shape=[len(x.shape)])
        if style == "slice":
            return self.slice(shape, 0, dim, dim + 1)
        index = self.initializer(np.array(dim, np.int64))
        return self.unsqueeze(self.op("Gather", shape, index, shape=[], axis=0), 0)

    def size(self, wanted: Size, near: Tensor | None = None) -> Tensor:
        """A size as an int64 vector of length 1; a static one is sometimes computed from `near`."""
        if isinstance(wanted, int):
            return self._static_size(wanted, near)
        symbol, _, times = wanted.partition("*")
        found = self.dim_of(*self._source(symbol, near))
        return self.op("Mul", found, self.ints([int(times)]), shape=[1]) if times else found

    def _source(self, symbol: str, near: Tensor | None) -> tuple[Tensor, int]:
        if near is not None and symbol in near.shape:
            return near, near.shape.index(symbol)
        return self.sources[symbol]

    def _static_size(self, wanted: int, near: Tensor | None) -> Tensor:
        for dim, size in enumerate(near.shape if near is not None else ()):
            if (
                near is not None
                and isinstance(size, int)
                and size > 1
                and size % wanted == 0
                and self.chance(0.3)
            ):
                found = self.dim_of(near, dim)
                return (
                    found if size == wanted else self.op("Div", found, self.ints([size // wanted]), shape=[1])
                )
        return self.ints([wanted])

    def reshape(self, x: Tensor, *shape: Size) -> Tensor:
        """A Reshape to literals with 0 and -1 where that says it, or to a computed shape."""
        literal: list[int] = []
        for i, size in enumerate(shape):
            same = i < len(x.shape) and x.shape[i] == size
            zero = same and (isinstance(size, str) or self.chance(0.15))
            literal.append(0 if zero else -1 if isinstance(size, str) else size)
        if literal.count(-1) == 0 and self.chance(0.2):
            literal[self.random.randrange(len(literal))] = -1
        if literal.count(-1) <= 1 and not self.chance(0.4):
            return self.op("Reshape", x, self.ints(literal), shape=shape)
        target = self.shape_tensor(shape, x)
        allow = 1 if self.opset >= 14 and self.chance(0.2) else None
        return self.op("Reshape", x, target, shape=shape, allowzero=allow)

    def shape_tensor(self, shape: Sequence[Size], near: Tensor | None = None) -> Tensor:
        """A shape as a Concat of pieces."""
        pieces = [self.size(size, near) for size in shape]
        return self.op("Concat", *pieces, shape=[len(pieces)], axis=0) if len(pieces) > 1 else pieces[0]
