"""The latency table: what was measured on this machine, kept between runs in the user's cache folder."""

from __future__ import annotations

import platform
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnxruntime as ort

from pruneopt.cache import cache_folder

TABLE = """create table if not exists latency (
    machine text, threads integer, kernel text, ms real, primary key (machine, threads, kernel))"""
AT_ONCE = 500  # names in one query


class Timings:
    """Kernel -> milliseconds, for one machine, runtime and number of threads.

    Where the file cannot be used (read-only, broken, locked), everything is known for this run only.
    """

    def __init__(self, threads: int, path: Path | None = None) -> None:
        self.threads = threads
        self.machine = machine()
        self._known: dict[str, float] = {}
        self._store = _open(path or cache_folder() / "latency.sqlite")

    def get(self, kernels: Sequence[str]) -> dict[str, float]:
        """Those of the kernels that have been measured."""
        missing = [k for k in dict.fromkeys(kernels) if k not in self._known]
        for at in range(0, len(missing), AT_ONCE):
            self._known |= self._read(missing[at : at + AT_ONCE])
        return {k: self._known[k] for k in kernels if k in self._known}

    def put(self, found: Mapping[str, float]) -> None:
        """Keep measurements."""
        self._known |= found
        rows = [(self.machine, self.threads, kernel, ms) for kernel, ms in found.items()]
        if self._store is not None:
            try:
                with self._store:
                    self._store.executemany("insert or replace into latency values (?, ?, ?, ?)", rows)
            except sqlite3.Error:  # a full disk or a lock must not stop a run
                self._store = None

    def _read(self, kernels: Sequence[str]) -> dict[str, float]:
        marks = ", ".join("?" * len(kernels))
        query = f"select kernel, ms from latency where machine = ? and threads = ? and kernel in ({marks})"
        try:
            found = self._store and self._store.execute(query, (self.machine, self.threads, *kernels))
            return dict(found or ())
        except sqlite3.Error:
            self._store = None
            return {}


def _open(path: Path) -> sqlite3.Connection | None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        store = sqlite3.connect(path, timeout=5)
        store.execute(TABLE)
    except (OSError, sqlite3.Error):
        return None
    return store


def machine() -> str:
    """What times hold for: processor and runtime."""
    return f"{_processor()}; {platform.machine()}; onnxruntime {ort.__version__}"


def _processor() -> str:
    """The processor's model, as far as the platform says it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.node()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Hardware")))
    return next(named, "") or platform.processor() or platform.node()
