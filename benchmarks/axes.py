"""`python -m benchmarks.axes minilm fashion_vit`: one budget spent along width, depth or length alone, or along all.

The tasks are those of `benchmarks.accuracy`: calibration data is what pruneopt sees, distances and scores are taken on
other data.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pruneopt as po
from benchmarks.accuracy.task import Array, Feeds, Task, distance, runner
from benchmarks.accuracy.tasks import load

WAYS = {
    "width": "width{macs=R}, repair",
    "depth": "depth{macs=R}",
    "depth, repaired": "depth{macs=R}, repair",
    "depth, linear maps": "depth{macs=R, fit=linear}",
    "length": "length{macs=R}",
    "length, topk": "length{macs=R, method=topk}",
    "length, topk, repaired": "length{macs=R, method=topk}, repair",
    "resolution": "length{macs=R, method=resolution}",
    "joint": "joint{macs=R}",
}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.axes", description=__doc__)
    parser.add_argument("tasks", nargs="*", default=["minilm", "fashion_vit"])
    parser.add_argument("--macs", type=float, nargs="+", default=[0.7], help="shares to keep [0.7]")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS, metavar="WAY")
    parser.add_argument(
        "--every", type=int, default=1, help="of the calibration batches, only each so many-th [1]"
    )
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "pruneopt" / "benchmarks")
    return parser.parse_args()


def main() -> None:
    """A row of a Markdown table for each way, as it is measured; joint plans are listed on the error stream."""
    given = arguments()
    print("| model | MACs asked | way | MACs kept | distance | score | plan | CPU (s) |")
    print("|---|---|---|---|---|---|---|---|")
    for name in given.tasks:
        for task in load(name, given.cache):
            bench = _Bench(task, given.every)
            print(f"| {name} | | dense | 1 | | {_scores(bench.task.score(bench.run))} | | |", flush=True)
            for share in given.macs:
                for way in given.ways:
                    print(f"| {name} | {share:g} | {way} | {bench.row(way, share)}", flush=True)


class _Bench:
    """One task, and what its dense model makes of the held-out data."""

    def __init__(self, task: Task, every: int) -> None:
        self.task = task
        self.calibration = task.calibration[::every]
        self.model = po.load(task.model)
        self.run = runner(self.model)
        self.dense = self._outputs(self.run)

    def row(self, way: str, share: float) -> str:
        """Prune and measure: the rest of the table's row."""
        begin = time.process_time()
        text = WAYS[way].replace("R", str(share))
        try:
            result = po.prune(self.model, passes=text, calib=self.calibration, timed=False)
        except po.PruneoptError as error:
            return f"{error} | | | | |"
        seconds = time.process_time() - begin
        report, run = result.report, runner(result.model)
        found = self._outputs(run)
        moved = ", ".join(
            f"{name} {distance(self.dense[name], found[name], self.task.kind):.2g}" for name in found
        )
        kept = report["output"]["macs"] / report["input"]["macs"]
        return f"{kept:.3f} | {moved} | {_scores(self.task.score(run))} | {_plan(report)} | {seconds:.0f} |"

    def _outputs(self, run: Callable[[Feeds], Array]) -> dict[str, list[Array]]:
        return {name: [run(batch) for batch in held] for name, held in self.task.held.items()}


def _scores(scores: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in scores.items())


def _plan(report: dict[str, Any]) -> str:
    """What a joint plan consists of; all that it was chosen from goes to the error stream."""
    for entry in report["passes"]:
        if entry["pass"] == "joint":
            for row in entry["candidates"]:
                print(row, file=sys.stderr, flush=True)
            print(entry["refused"], file=sys.stderr, flush=True)
            best = entry["candidates"][entry["chosen"]]
            return (
                ", ".join(f"{axis} {best[axis]}" for axis in ("depth", "length"))
                + f", width {best['width']:.2f}"
            )
    return ""


if __name__ == "__main__":
    main()
