"""How far a tensor is from another, piece by piece: copies of large ones would cost more memory than the model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from pruneopt.arrays import Array

BLOCK = 1 << 18  # entries that are compared at once
FLOOR = 1e-2  # inner tensors smaller than that may be nothing but rounding errors of larger ones


def distance(expected: Any, found: Any, floor: float = float(np.finfo(np.float32).tiny)) -> float:
    """Largest difference as a share of the largest magnitude; of integers, the share that differs."""
    if not isinstance(expected, np.ndarray) or not expected.size:
        return 0.0
    if expected.shape != found.shape:
        return float("inf")
    if expected.dtype.kind not in "fcV":
        return float(np.mean(expected != found))
    difference, largest = 0.0, floor
    for a, b in _blocks(expected, found):
        finite = np.isfinite(a)
        if not (finite == np.isfinite(b)).all():
            return float("inf")
        a, b = np.where(finite, a, 0), np.where(finite, b, 0)
        difference = max(difference, float(np.abs(a - b).max()))
        largest = max(largest, float(np.abs(a).max()))
    return difference / largest


def _blocks(*arrays: Array) -> Iterator[tuple[Array, ...]]:
    """The arrays piece by piece, in float64."""
    flat = [array.reshape(-1) for array in arrays]
    for i in range(0, flat[0].size, BLOCK):
        yield tuple(each[i : i + BLOCK].astype(np.float64) for each in flat)
