"""Calibration data of the tasks for the command line: `pruneopt MODEL --calib benchmarks.accuracy.feeds:minilm`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmarks.accuracy.task import Feeds
from benchmarks.accuracy.tasks import TASKS, load

CACHE = Path.home() / ".cache" / "pruneopt" / "benchmarks"


def __getattr__(name: str) -> Callable[[], list[Feeds]]:
    """A function that yields the batches of the task of this name, of its first fold."""
    if name not in TASKS:
        raise AttributeError(name)
    return lambda: load(name, CACHE)[0].calibration
