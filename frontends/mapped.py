"""Weights on disk instead of in memory: arrays that look into files, and giving their pages back."""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
BIG = 1 << 24  # bytes; smaller arrays are not worth a file


def spill(array: Array) -> Array:
    """The same values, read-only, in an unnamed temporary file that goes with the last view of it."""
    if array.nbytes < BIG:
        return array
    with tempfile.TemporaryFile(prefix="pruneopt-") as file:
        file.write(np.ascontiguousarray(array).data)
        file.flush()
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return np.frombuffer(mapping, array.dtype).reshape(array.shape)


def release(arrays: Iterable[Array]) -> None:
    """Let the system take back the pages of arrays that look into files; they are read again when needed."""
    if not hasattr(mmap, "MADV_DONTNEED"):
        return
    for mapping in {id(m): m for m in map(_mapping, arrays) if m is not None}.values():
        mapping.madvise(mmap.MADV_DONTNEED)


def _mapping(array: Any) -> mmap.mmap | None:
    while array is not None and not isinstance(array, mmap.mmap):
        array = array.obj if isinstance(array, memoryview) else getattr(array, "base", None)
    return array
