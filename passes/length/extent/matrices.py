"""Interpolation as matrices, shape [new, old]: every way to bring places to another number is linear.

Half-pixel centres, as images are resized and as position embeddings are for other resolutions (Dosovitskiy et al.,
ICLR 2021, section 3.2; bicubic with a = -0.75 as in DeiT, Touvron et al., ICML 2021).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod

import numpy as np
import numpy.typing as npt

from pruneopt.analysis.axes import Axis, Kind, atoms, factors, find, parts
from pruneopt.passes.length.extent.settle import Fixed, Settled

Array = npt.NDArray[np.float64]
Way = Callable[[int, int], Array]
A = -0.75  # of the cubic kernel


def linear(old: int, new: int) -> Array:
    """Between the two neighbours; over all that a new place covers where there are fewer."""
    return _sampled(old, new, lambda x: np.maximum(0, 1 - np.abs(x)), wide=True)


def cubic(old: int, new: int) -> Array:
    """Between the four neighbours, which at the ends are repeated."""
    return _sampled(old, new, _cubic, wide=False)


def sampled(old: int, new: int) -> Array:
    """Every so-manyth, the one in the middle of what it stands for."""
    return np.asarray(np.eye(old)[((np.arange(new) + 0.5) * old / new).astype(int)])


def first(old: int, new: int) -> Array:
    """Those at the front."""
    return np.asarray(np.eye(old)[:new])


def padded(old: int, new: int) -> Array:
    """Zeros behind them."""
    return np.asarray(np.eye(new)[:, :old])


WAYS: Mapping[str, tuple[Way, Way]] = {  # role -> how inputs become smaller, how constants do
    "resolution": (linear, cubic),
    "frames": (sampled, linear),
    "sequence": (first, first),
}


def _sampled(old: int, new: int, kernel: Callable[[Array], Array], wide: bool) -> Array:
    scale = old / new
    spread = max(scale, 1.0) if wide else 1.0
    centres = (np.arange(new) + 0.5) * scale - 0.5
    reach = int(np.ceil(2 * spread)) + 1
    found = np.zeros((new, old))
    for row, centre in enumerate(centres):
        at = np.arange(int(np.floor(centre)) - reach, int(np.floor(centre)) + reach + 1)
        weights = kernel((at - centre) / spread)
        if wide:  # what lies outside has no say
            weights = np.where((at >= 0) & (at < old), weights, 0)
        np.add.at(found[row], np.clip(at, 0, old - 1), weights)
    return np.asarray(found / found.sum(1, keepdims=True))


def _cubic(x: Array) -> Array:
    x = np.abs(x)
    near = ((A + 2) * x - (A + 3)) * x * x + 1
    far = ((A * x - 5 * A) * x + 8 * A) * x - 4 * A
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def matrix(axis: Axis, settled: Settled, way: Mapping[str, Way], back: bool = False) -> Array:
    """How entries of an axis become fewer, [new, old]; with `back`, how they become as many as before, [old, new].

    A concatenation is block by block; a product is the Kronecker product of its lines of places.

    Raises:
        Fixed: a part of what changes lies on no line of places.
    """
    axis = find(axis)
    if axis.kind is Kind.CONCAT:
        return _diagonal([matrix(part, settled, way, back) for part in parts(axis)])
    items = factors(axis)
    whole: Array = np.ones((1, 1))
    while items:
        count = next((n for n in range(len(items), 0, -1) if tuple(map(find, items[:n])) in settled.grids), 0)
        if not count and settled.touched(items[0]):
            if find(items[0]).kind is not Kind.CONCAT:
                raise Fixed(f"{axis} holds places in an order that is not known")
            piece = matrix(items[0], settled, way, back)
        elif not count:
            piece = np.eye(items[0].size[0])
        else:
            line = items[:count]
            role = next(settled.roles[a] for f in line for a in atoms(f) if a in settled.roles)
            old, new = prod(f.size[0] for f in line), settled.grids[tuple(map(find, line))]
            piece = way[role](new, old) if back else way[role](old, new)
        whole = np.asarray(np.kron(whole, piece), np.float64)
        items = items[max(count, 1) :]
    return whole


def _diagonal(blocks: Sequence[Array]) -> Array:
    found = np.zeros((sum(b.shape[0] for b in blocks), sum(b.shape[1] for b in blocks)))
    row = column = 0
    for block in blocks:
        found[row : row + block.shape[0], column : column + block.shape[1]] = block
        row, column = row + block.shape[0], column + block.shape[1]
    return found


def apply(array: npt.NDArray[np.generic], dim: int, matrix_: Array) -> npt.NDArray[np.generic]:
    """A matrix along one dimension; whole numbers and truth values are picked, never mixed."""
    if array.dtype.kind in "fV":
        mixed = np.moveaxis(np.tensordot(matrix_, array.astype(np.float64), (1, dim)), 0, dim)
        return np.ascontiguousarray(mixed.astype(array.dtype))
    picked = matrix_.argmax(1)
    if not np.array_equal(np.eye(matrix_.shape[1])[picked], matrix_):
        raise Fixed("whole numbers belong to its places")
    return np.ascontiguousarray(np.take(array, picked, axis=dim))
