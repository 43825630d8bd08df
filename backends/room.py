"""Memory that nobody uses any more, given back before a large model is loaded.

Graphs are cyclic: dead ones wait for the collector, their weights with them. And the C library keeps what was freed.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterable
from typing import Any

import numpy as np

LARGE = 1 << 26  # bytes of weights in memory from which on it is worth the time


def make_room(arrays: Iterable[np.ndarray[Any, Any]]) -> None:
    """Give back what is not used, if these weights are large."""
    if sum(array.nbytes for array in arrays) >= LARGE:
        gc.collect()
        if _trim is not None:
            _trim(0)


def _find_trim() -> Any:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library
        return None


_trim = _find_trim()
