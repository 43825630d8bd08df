"""`python -m benchmarks.sparse_accuracy minilm`: what zeros cost in accuracy, by pattern and method, untrained."""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import pruneopt as po
from benchmarks.accuracy.task import Array, Feeds, Run, Task, distance
from benchmarks.accuracy.tasks import TASKS, load
from pruneopt.backends.ort import Session
from pruneopt.model import Model
from pruneopt.passes.base import Outcome, Pipeline
from pruneopt.passes.simplify import Simplify
from pruneopt.passes.sparsify import Sparsify

PATTERNS = ("unstructured", "2:4", "16x1")
METHODS = ("magnitude", "ria", "wanda", "sparsegpt", "admm")


def main() -> None:
    """Print a line per model, pattern and method."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sparse_accuracy", description=__doc__)
    parser.add_argument(
        "tasks", nargs="*", default=["minilm"], choices=[*TASKS, []], metavar="TASK", help=", ".join(TASKS)
    )
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.5])
    parser.add_argument("--patterns", nargs="+", default=list(PATTERNS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--allocation", default="uniform", choices=("uniform", "measured"))
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "pruneopt" / "benchmarks")
    given = parser.parse_args()
    for name in given.tasks:
        passes = [
            Sparsify(None if ":" in pattern else share, pattern, method, given.allocation)
            for pattern in given.patterns
            for share in (given.sparsity[:1] if ":" in pattern else given.sparsity)
            for method in given.methods
        ]
        _bench(load(name, given.cache)[0], passes)


def _bench(task: Task, passes: list[Sparsify]) -> None:
    model = po.load(task.model)
    run = _runner(model)
    dense = {name: [run(batch) for batch in batches] for name, batches in task.held.items()}
    print(f"{task.name:12} dense  {_figures(task.score(run))}", flush=True)
    for each in passes:
        begin = time.process_time()
        made = Pipeline((Simplify(), each)).run(model, calib=task.calibration)
        seconds = time.process_time() - begin
        run = _runner(made.model)
        moved = {n: distance(dense[n], [run(b) for b in held], task.kind) for n, held in task.held.items()}
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        print(
            f"{task.name:12} {each.pattern:12} {_sparsity(made):.2f} {each.method:10} "
            f"{task.unit} {_figures(moved)}  {_figures(task.score(run))}  "
            f"{seconds:.0f} s  {memory} MB",
            flush=True,
        )


def _sparsity(made: Outcome) -> float:
    return float(made.entry["passes"][-1]["sparsity"])


def _runner(model: Model) -> Run:
    session = Session(model)

    def run(feeds: Feeds) -> Array:
        found: Array = session.run(feeds)[session.outputs[0]]
        return found

    return run


def _figures(named: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.4f}" for name, value in named.items())


if __name__ == "__main__":
    main()
