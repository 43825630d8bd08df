"""What has been measured, in a SQLite file of the user's cache folder: tuned once, used by every model."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path
from typing import Any

from pruneopt.backends.tvm.layer import VERSION, Layer, Schedule
from pruneopt.errors import PruneoptError

STEPS = 20  # buckets of density


def default_path() -> Path:
    """`pruneopt/kernels.sqlite` in the cache folder of the user."""
    folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(folder) / "pruneopt" / "kernels.sqlite"


def bucket(density: float) -> int:
    """The step of density that a record holds for."""
    return round(density * STEPS)


def key(layer: Layer, block: int, density: float, n: int, target: str, threads: int) -> str:
    """What a record holds for: shape, pattern, density in steps of 5 %, `n` up to a power of two, and where."""
    where = [VERSION, target, threads, block, bucket(density), max(0, n - 1).bit_length()]
    return json.dumps([*where, layer.key()])


class Records:
    """Times in seconds of (key, schedule) pairs; a key is finished when its search has come to its end."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or default_path()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path, timeout=30)
            with self._db:
                self._db.execute(
                    "CREATE TABLE IF NOT EXISTS times (key TEXT, schedule TEXT, seconds REAL, rounds INTEGER, "
                    "PRIMARY KEY (key, schedule))"
                )
                self._db.execute("CREATE TABLE IF NOT EXISTS finished (key TEXT PRIMARY KEY, trials INTEGER)")
                self._db.execute("CREATE TABLE IF NOT EXISTS gates (key TEXT PRIMARY KEY, gains TEXT)")
        except (OSError, sqlite3.Error) as error:
            raise PruneoptError(f"the tuning records cannot be kept in '{self.path}': {error}") from error

    def known(self, key: str) -> dict[Schedule, tuple[float, int]]:
        """Schedule -> (seconds, rounds that were measured)."""
        rows = self._db.execute("SELECT schedule, seconds, rounds FROM times WHERE key = ?", (key,))
        return {Schedule(**json.loads(text)): (seconds, rounds) for text, seconds, rounds in rows}

    def add(self, key: str, schedule: Schedule, seconds: float, rounds: int) -> None:
        """Written at once: an interruption loses nothing."""
        row = (key, _text(schedule), seconds, rounds)
        with self._db:
            self._db.execute("INSERT OR REPLACE INTO times VALUES (?, ?, ?, ?)", row)

    def finish(self, key: str, trials: int) -> None:
        with self._db:
            self._db.execute("INSERT OR REPLACE INTO finished VALUES (?, ?)", (key, trials))

    def finished(self, key: str) -> int:
        """How many trials the finished search of a key had; 0 where there was none."""
        row = self._db.execute("SELECT trials FROM finished WHERE key = ?", (key,)).fetchone()
        return int(row[0]) if row else 0

    def gains(self, key: str) -> list[float] | None:
        """What the gate measured for each group of layers of a model; None where it has not."""
        row = self._db.execute("SELECT gains FROM gates WHERE key = ?", (key,)).fetchone()
        return list(json.loads(row[0])) if row else None

    def keep_gains(self, key: str, gains: list[float]) -> None:
        with self._db:
            self._db.execute("INSERT OR REPLACE INTO gates VALUES (?, ?)", (key, json.dumps(gains)))

    @property
    def objects(self) -> Path:
        """The folder beside the records in which compiled kernels are kept."""
        return self.path.with_suffix(".objects")

    def close(self) -> None:
        self._db.close()


def _text(schedule: Schedule) -> str:
    fields: dict[str, Any] = schedule.as_dict()
    return json.dumps(fields, sort_keys=True)
