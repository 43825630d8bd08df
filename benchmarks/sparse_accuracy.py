"""`python -m benchmarks.sparse_accuracy`: what zeros cost in accuracy, by pattern and method, untrained."""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.accuracy.table import write
from benchmarks.accuracy.task import Dense, distance, runner
from benchmarks.accuracy.tasks import TASKS, load
from pruneopt.passes.pipeline import Pipeline
from pruneopt.passes.simplify import Simplify
from pruneopt.passes.sparsify import Sparsify

NETS = ("fashion_cnn", "fashion_vit", "minilm", "smollm2")
PATTERNS = ("unstructured", "2:4", "16x1")
METHODS = ("magnitude", "wanda", "ria", "sparsegpt", "admm", "default")


@dataclass(frozen=True)
class Row:
    """One net made sparse in one way; `method` is `dense` for the net as it is, `default` for what nobody chose.

    Attributes:
        task, pattern, share, method: what was asked for.
        sparsity: share of zeros among the weights that took part.
        distances: to the dense net's outputs, by set of held-out data, and what they are called.
        scores: of the task.
        seconds: of CPU time.
        memory: MB that the process has had at most so far.
    """

    task: str
    pattern: str = ""
    share: float | None = None
    method: str = "dense"
    sparsity: float = 0.0
    distances: dict[str, float] | None = None
    unit: str = ""
    scores: dict[str, float] | None = None
    seconds: float = 0.0
    memory: int = 0

    @property
    def key(self) -> tuple[str, str, float | None, str]:
        """What was measured."""
        return self.task, self.pattern, self.share, self.method


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sparse_accuracy", description=__doc__)
    parser.add_argument("tasks", nargs="*", default=list(NETS), metavar="TASK", help=", ".join(TASKS))
    parser.add_argument(
        "--sparsity", type=float, nargs="+", default=[0.5], help="n:m patterns set it themselves"
    )
    parser.add_argument("--patterns", nargs="+", default=list(PATTERNS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--allocation", default="uniform", choices=("uniform", "measured"))
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "pruneopt" / "benchmarks")
    parser.add_argument("--json", type=Path, metavar="ROWS.json", help="keep the figures; what it has stays")
    found = parser.parse_args(given)
    if unknown := set(found.tasks) - set(TASKS):
        parser.error(f"there is no task '{min(unknown)}'; choose from {', '.join(TASKS)}")
    return found


def main(given: Sequence[str] | None = None) -> None:
    """A line for each row as it is measured, then the table."""
    asked = arguments(given)
    known = json.loads(asked.json.read_text()) if asked.json and asked.json.exists() else []
    rows = {row.key: row for row in (Row(**each) for each in known)}
    for name in asked.tasks:
        wanted = [(name, "", None, "dense"), *((name, *each) for each in _passes(asked))]
        missing = [key for key in wanted if key not in rows]
        bench = _Bench(load(name, asked.cache)[0]) if missing else None
        for key in missing:
            assert bench is not None
            rows[key] = bench.row(*key[1:], asked.allocation)
            print(rows[key], file=sys.stderr, flush=True)
            write(asked.json, list(rows.values()))
    print(markdown([row for row in rows.values() if row.task in asked.tasks]))


def _passes(asked: argparse.Namespace) -> list[tuple[str, float | None, str]]:
    """(pattern, share of zeros, method) of each row."""
    return [
        (pattern, share, method)
        for pattern in asked.patterns
        for share in ([None] if ":" in pattern else asked.sparsity)
        for method in asked.methods
    ]


class _Bench(Dense):
    def row(self, pattern: str, share: float | None, method: str, allocation: str) -> Row:
        """Make it sparse and measure."""
        task = self.task
        if method == "dense":
            return Row(task.name, unit=task.unit, scores=self.score, distances=dict.fromkeys(task.held, 0.0))
        begin = time.process_time()
        default = method == "default"
        passes = (Simplify(), Sparsify(share, pattern, *(() if default else (method, allocation))))
        made = Pipeline(passes).run(self.model, calib=task.calibration)
        seconds = time.process_time() - begin
        run = runner(made.model)
        found = {name: [run(batch) for batch in held] for name, held in task.held.items()}
        return Row(
            task.name,
            pattern,
            share,
            method,
            float(made.entry["passes"][-1]["sparsity"]),
            {name: distance(self.dense[name], found[name], task.kind) for name in found},
            task.unit,
            task.score(run),
            seconds,
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
        )


def markdown(rows: Sequence[Row]) -> str:
    """A table for each net: a line for each pattern and share, a column for each method."""
    parts = []
    for task in dict.fromkeys(row.task for row in rows):
        own = [row for row in rows if row.task == task]
        methods = list(dict.fromkeys(row.method for row in own if row.method != "dense"))
        unit = f"{own[0].unit} {'/'.join(own[0].distances or {})}, {'/'.join(own[0].scores or {})}"
        dense = next((row for row in own if row.method == "dense"), None)
        head = f"{task} ({unit}{'; dense ' + _figures(dense.scores) if dense else ''})"
        lines = [f"| {' | '.join([head, *methods])} |", "|---" * (len(methods) + 1) + "|"]
        for pattern, share in dict.fromkeys((row.pattern, row.share) for row in own if row.method != "dense"):
            cells = {row.method: row for row in own if (row.pattern, row.share) == (pattern, share)}
            label = pattern if share is None else f"{pattern} {share:.0%}"
            texts = [_cell(cells.get(method)) for method in methods]
            lines.append(f"| {' | '.join([label, *texts])} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _cell(row: Row | None) -> str:
    return "" if row is None else f"{_figures(row.distances)}, {_figures(row.scores)}"


def _figures(named: dict[str, float] | None) -> str:
    return "/".join(f"{value:.3g}" if value >= 10 else f"{value:.4f}" for value in (named or {}).values())


if __name__ == "__main__":
    main()
