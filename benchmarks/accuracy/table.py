"""Rows of figures, kept as JSON and shown as a Markdown table for each model."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Row:
    """One model pruned in one way.

    Attributes:
        task, method: names.
        share: of the MACs that was asked for; None for the dense model and where no budget was given.
        macs: share of the MACs that is left.
        distances: to the dense model, by set of held-out data, and what they are called.
        moved: relative L2 distance of the outputs, on all sets together.
        scores: of the task.
        latency: measured in turns, over the dense model's.
        seconds: of CPU time.
        forwards: runs over the calibration data, where that is known.
        status: `ok`, or why there are no figures.
    """

    task: str
    method: str
    share: float | None
    macs: float = 1.0
    distances: dict[str, float] | None = None
    unit: str = ""
    moved: float = 0.0
    scores: dict[str, float] | None = None
    latency: float = 1.0
    seconds: float = 0.0
    forwards: float | None = None
    status: str = "ok"

    @property
    def key(self) -> tuple[str, str, float | None]:
        """What was measured."""
        return self.task, self.method, self.share


def known(path: Path | None) -> list[Row]:
    """Rows measured before."""
    return [Row(**each) for each in json.loads(path.read_text())] if path and path.exists() else []


def write(path: Path | None, rows: Sequence[Any]) -> None:
    """All rows, whole or not at all."""
    if path is not None:
        partial = path.with_name(path.name + ".partial")
        partial.write_text(json.dumps([asdict(row) for row in rows], indent=1))
        os.replace(partial, path)


def mean(rows: list[Row]) -> Row:
    """One row for the folds of a task."""
    first, n = rows[0], len(rows)
    failed = next((row for row in rows if row.status != "ok"), None)
    if failed is not None or n == 1:
        return failed or first
    distances, scores = (
        {k: sum((getattr(row, field) or {})[k] for row in rows) / n for k in getattr(first, field) or {}}
        for field in ("distances", "scores")
    )
    plain = {f: sum(getattr(row, f) for row in rows) / n for f in ("macs", "moved", "latency", "seconds")}
    return Row(
        first.task,
        first.method,
        first.share,
        distances=distances,
        unit=first.unit,
        scores=scores,
        forwards=first.forwards,
        **plain,
    )


def markdown(rows: list[Row], baselines: tuple[str, ...]) -> str:
    """A table for each task; one column is the distance over the best baseline's at the same share."""
    return "\n\n".join(
        _table([row for row in rows if row.task == task], baselines)
        for task in dict.fromkeys(r.task for r in rows)
    )


def _table(rows: list[Row], baselines: tuple[str, ...]) -> str:
    first = next((row for row in rows if row.status == "ok"), None)
    if first is None:
        return f"{rows[0].task}: {rows[0].status}"
    sets, scores = list(first.distances or {}), list(first.scores or {})
    head = [
        first.task,
        "MACs",
        *(f"{first.unit}, {s}" for s in sets),
        "over the best peer's",
        "moved",
        *scores,
    ]
    lines = [[*head, "latency", "CPU (s)", "forwards"]]
    lines.append(["---"] * len(lines[0]))
    for row in rows:
        if row.status == "ok":
            lines.append(_cells(row, rows, sets, scores, baselines))
        else:
            asked = "" if row.share is None else f"{row.share:g}"
            lines.append([row.method, asked, row.status.replace("|", "/")[:90], *[""] * (len(lines[0]) - 3)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cells(
    row: Row, rows: list[Row], sets: list[str], scores: list[str], baselines: tuple[str, ...]
) -> list[str]:
    distances, found = row.distances or {}, row.scores or {}
    return [
        row.method,
        f"{row.macs:.3f}",
        *(f"{distances[s]:.2g}" for s in sets),
        _over(row, rows, sets[0], baselines),
        f"{row.moved:.1%}",
        *(f"{found[s]:.4g}" for s in scores),
        f"{row.latency:.2f}",
        f"{row.seconds:.0f}",
        "" if row.forwards is None else f"{row.forwards:.1f}",
    ]


def _over(row: Row, rows: list[Row], name: str, baselines: tuple[str, ...]) -> str:
    peers = [r for r in rows if r.method in baselines and r.share == row.share and r.status == "ok"]
    if row.share is None or row.method in baselines or not peers:
        return ""
    least = min((peer.distances or {})[name] for peer in peers)
    return f"{(row.distances or {})[name] / max(least, 1e-12):.2g}"
