"""The models, by name; each is a module of this package with one function, `task(cache)`."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from benchmarks.accuracy.task import Task

TASKS = (
    "minilm",
    "ocr",
    "fashion_cnn",
    "fashion_vit",
    "efficientnet",
    "demosaic",
    "magika",
    "smollm2",
)


def load(name: str, cache: Path) -> list[Task]:
    """The folds of a task, of which most have one. Exports, and trains, what is not in `cache` yet."""
    cache.mkdir(parents=True, exist_ok=True)
    found: Task | list[Task] = import_module(f"benchmarks.accuracy.{name}").task(cache)
    return found if isinstance(found, list) else [found]
