"""Weights on disk instead of in memory: arrays that look into files, and giving their pages back."""

from __future__ import annotations

import mmap
import tempfile
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from pruneopt.arrays import Array

_files: weakref.WeakKeyDictionary[mmap.mmap, Path] = weakref.WeakKeyDictionary()


def spill(pieces: Iterable[Array], dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """An array, read-only, in a temporary file that goes with the last view of it.

    Its pieces follow each other in memory order.
    """
    with tempfile.NamedTemporaryFile(prefix="pruneopt-", delete=False) as file:
        for piece in pieces:
            np.ascontiguousarray(piece).tofile(file)
        file.flush()
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    _files[mapping] = Path(file.name)
    weakref.finalize(mapping, Path(file.name).unlink, missing_ok=True)
    return np.frombuffer(mapping, dtype).reshape(shape)


def spilled_file(array: Array) -> Path | None:
    """The file that `array`, a result of `spill`, fills."""
    mapping = _mapping(array)
    return None if mapping is None else _files.get(mapping)


def release(arrays: Iterable[Array]) -> None:
    """Let the system take back the pages of arrays that look into files; they are read again when needed."""
    if not hasattr(mmap, "MADV_DONTNEED"):
        return
    for array in arrays:
        mapping = _mapping(array)
        if mapping is not None and array.size:
            start = array.ctypes.data - np.frombuffer(mapping, np.uint8).ctypes.data
            first = start // mmap.PAGESIZE * mmap.PAGESIZE  # stored arrays have no gaps
            mapping.madvise(mmap.MADV_DONTNEED, first, start + array.nbytes - first)


def _mapping(array: Any) -> mmap.mmap | None:
    while array is not None and not isinstance(array, mmap.mmap):
        array = array.obj if isinstance(array, memoryview) else getattr(array, "base", None)
    return array
