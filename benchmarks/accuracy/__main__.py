"""`python -m benchmarks.accuracy minilm ocr --macs 0.7 0.5`: distance to the dense model at equal MACs, as a table."""

from __future__ import annotations

import argparse
import sys
import time
from importlib import import_module
from pathlib import Path

import pruneopt as po
from benchmarks.accuracy.task import Array, Feeds, Run, Task, distance
from pruneopt.backends.ort import Session

TASKS = ("minilm", "ocr")
METHODS = {
    "default": None,
    "default, no rotation": "width{macs=R}, repair",
    "uniform obs + repair": "width{macs=R, criterion=obs, plan=uniform}, repair",
    "uniform wanda + repair": "width{macs=R, criterion=wanda}, repair",
    "uniform flap + bias": "width{macs=R, criterion=flap}, repair{ways=bias}",
    "uniform l2 + repair": "width{macs=R, criterion=l2}, repair",
    "uniform l2": "width{macs=R, criterion=l2}",
}


def main() -> None:
    """Run the tasks and print a line per model, budget and method."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    parser.add_argument(
        "tasks", nargs="*", default=list(TASKS), choices=[*TASKS, []], metavar="TASK", help=", ".join(TASKS)
    )
    parser.add_argument("--macs", type=float, nargs="+", default=[0.9, 0.7, 0.5])
    parser.add_argument("--methods", nargs="+", default=["default", "uniform l2"], choices=list(METHODS))
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "pruneopt" / "benchmarks")
    given = parser.parse_args()
    given.cache.mkdir(parents=True, exist_ok=True)
    for name in given.tasks:
        task: Task = import_module(f"benchmarks.accuracy.{name}").task(given.cache)
        _bench(task, given.macs, given.methods)


def _bench(task: Task, shares: list[float], methods: list[str]) -> None:
    model = po.load(task.model)
    run = _runner(model)
    dense = {name: [run(batch) for batch in batches] for name, batches in task.held.items()}
    _line(task, "dense", 1.0, 0.0, dict.fromkeys(task.held, 0.0) | task.score(run))
    for share in shares:
        for method in methods:
            begin = time.perf_counter()
            try:
                result = _prune(model, method, share, task.calibration)
            except po.PruneoptError as error:
                print(f"{task.name} {share} {method}: {error}", file=sys.stderr)
                continue
            seconds = time.perf_counter() - begin
            run = _runner(result.model)
            moved = {
                n: distance(dense[n], [run(b) for b in held], task.kind) for n, held in task.held.items()
            }
            ratio = result.report["output"]["macs"] / result.report["input"]["macs"]
            _line(task, method, ratio, seconds, moved | task.score(run))


def _prune(model: po.Model, method: str, share: float, calibration: list[Feeds]) -> po.Result:
    passes = METHODS[method]
    if passes is None:
        return po.prune(model, macs=share, calib=calibration, timed=False)
    return po.prune(model, passes=passes.replace("R", str(share)), calib=calibration, timed=False)


def _runner(model: po.Model) -> Run:
    session = Session(model)

    def run(feeds: Feeds) -> Array:
        found: Array = session.run(feeds)[session.outputs[0]]
        return found

    return run


def _line(task: Task, method: str, macs: float, seconds: float, figures: dict[str, float]) -> None:
    kind = "1-cos" if task.kind == "cosine" else "KL"
    texts = [
        f"{name} {kind} {value:.5f}" if name in task.held else f"{name} {value:.4f}"
        for name, value in figures.items()
    ]
    print(f"{task.name:8} {method:24} MACs {macs:.3f}  {'  '.join(texts)}  {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
