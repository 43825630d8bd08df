"""Biases between pairs of places that depend on their distance only: the table behind them is interpolated.

    B[(i j), (k l)] = T[i - k, j - l]

is read back into T, which becomes smaller like any image, bicubic (as published for BEiT, Bao et al., ICLR 2022, and
others with relative positions). Rows and columns of other tokens (a class token) are interpolated along one side.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import numpy.typing as npt

from pruneopt.analysis.axes import Axis, factors, find, parts
from pruneopt.passes.length.extent.matrices import WAYS, apply, cubic, matrix
from pruneopt.passes.length.extent.settle import Settled

Array = npt.NDArray[np.generic]
ROUNDING = 1e-6


def resampled_pairs(array: Array, dims: tuple[int, int], axis: Axis, settled: Settled) -> Array | None:
    """An array two of whose dimensions are the same places, with fewer of them; None where it is no such bias."""
    lines = _lines(axis, settled)
    if lines is None or array.dtype.kind != "f":
        return None
    start, old, new = lines
    count, left = prod(old), prod(new)
    square = np.moveaxis(array, dims, (-2, -1))
    inner = square[..., start : start + count, start : start + count]
    at, fewer = _offsets(old), _offsets(new)
    table = np.zeros((*inner.shape[:-2], prod(2 * n - 1 for n in old)), np.float64)
    table[..., at] = inner
    if not np.allclose(table[..., at], inner, rtol=ROUNDING, atol=ROUNDING * float(np.abs(inner).max())):
        return None
    table = table.reshape(*table.shape[:-1], *(2 * n - 1 for n in old))
    for i, (a, b) in enumerate(zip(old, new, strict=True)):
        table = np.asarray(apply(table, i - len(old) + table.ndim, cubic(2 * a - 1, 2 * b - 1)))
    whole = matrix(axis, settled, {role: way for role, (_, way) in WAYS.items()})
    made = np.moveaxis(apply(apply(array, dims[0], whole), dims[1], whole), dims, (-2, -1)).copy()
    flat = table.reshape(*inner.shape[:-2], -1)
    made[..., start : start + left, start : start + left] = flat[..., fewer]
    return np.ascontiguousarray(np.moveaxis(made, (-2, -1), dims))


def _lines(axis: Axis, settled: Settled) -> tuple[int, list[int], list[int]] | None:
    """(entries in front, old sizes, new sizes) of the only part that changes, where it is lines of places."""
    moved = [part for part in parts(axis) if settled.touched(part)]
    if len(moved) != 1:
        return None
    start = 0
    for part in parts(axis):
        if part is moved[0]:
            break
        start += part.size[0]
    lines = [(f.size[0], settled.grids.get((find(f),), 0)) for f in factors(moved[0])]
    if not all(new for _, new in lines):
        return None
    return start, [old for old, _ in lines], [new for _, new in lines]


def _offsets(sizes: Sequence[int]) -> npt.NDArray[np.int64]:
    """[places, places]: where in a flat table of offsets each pair is."""
    grid = np.stack(np.unravel_index(np.arange(prod(sizes)), sizes))
    apart = grid[:, :, None] - grid[:, None, :] + np.array(sizes)[:, None, None] - 1
    return np.asarray(np.ravel_multi_index(tuple(apart), [2 * n - 1 for n in sizes]), np.int64)
