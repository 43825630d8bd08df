"""Which processors threads keep to while they are timed.

A scheduler that leaves two threads on one core, for milliseconds or for good, doubles what is measured; ONNX Runtime
itself binds its threads where nobody says how many it shall have.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


def cores(count: int) -> list[int]:
    """A processor on each of `count` cores; none where there are fewer, or the system does not bind threads."""
    if not hasattr(os, "sched_getaffinity"):
        return []
    own = sorted(os.sched_getaffinity(0))
    firsts = list({_core(each): each for each in reversed(own)}.values())[::-1]
    found = firsts if len(firsts) >= count else own
    return found[:count] if len(found) >= count else []


def _core(processor: int) -> str:
    """The processors that share its core, as the system names them."""
    path = Path(SIBLINGS.format(processor))
    return path.read_text().strip() if path.exists() else str(processor)


def share(options: Any, threads: int) -> list[int]:
    """Has the session of these `onnxruntime.SessionOptions` keep each thread on a core of its own; the cores, if so.

    The thread that calls is the first (`bound`); ONNX Runtime is told of the others, and counts from one.
    """
    options.intra_op_num_threads = threads
    own = cores(threads) if threads > 1 else []
    if own:
        others = ";".join(str(each + 1) for each in own[1:])
        options.add_session_config_entry("session.intra_op_thread_affinities", others)
    return own


@contextmanager
def bound(processors: list[int]) -> Iterator[None]:
    """Keeps the thread that calls on the first of these processors, if there is one and the system lets us."""
    before = os.sched_getaffinity(0) if processors else None
    with suppress(OSError):
        if processors:
            os.sched_setaffinity(0, processors[:1])
    try:
        yield
    finally:
        with suppress(OSError):
            if before:
                os.sched_setaffinity(0, before)
