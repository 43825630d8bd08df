"""Memory that nobody uses any more, given back before a large model is loaded.

Graphs are cyclic: dead ones wait for the collector, their weights with them. And the C library keeps what was freed.
"""

from __future__ import annotations

import ctypes
import gc
from typing import Any

LARGE = 1 << 26  # bytes of weights from which on it is worth the time


def make_room(weights: int) -> None:
    """Give back what is not used, if so many bytes of weights are large."""
    if weights >= LARGE:
        gc.collect()
        if _trim is not None:
            _trim(0)


def _find_trim() -> Any:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library
        return None


_trim = _find_trim()
