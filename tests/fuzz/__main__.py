"""The long run: `python -m tests.fuzz --examples 20000 --seed S [--first I] [--jobs N] [--save FOLDER]`.

Graph I of seed S is the same on every machine. A failure is saved as `S-I.onnx`, `S-I.npz` (feeds and masks)
and `S-I.txt` (what went wrong); `--replay FOLDER/S-I.onnx` checks it again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random

import onnx

from tests.fuzz.checks import Verdict, check
from tests.fuzz.graphs import build
from tests.fuzz.saved import replay, save

STEP = 100  # graphs between two lines of progress


@dataclass
class Totals:
    """Sums over all graphs so far."""

    graphs: int = 0
    with_groups: int = 0
    free: int = 0
    pruned: int = 0
    coupled: int = 0
    noisy: int = 0
    failures: int = 0
    worst: float = 0.0

    def add(self, verdict: Verdict | None) -> None:
        """Count one graph; None is a failure."""
        self.graphs += 1
        if verdict is None:
            self.failures += 1
            return
        self.with_groups += verdict.pruned > 0
        self.free += verdict.groups
        self.pruned += verdict.pruned
        self.coupled += verdict.coupled
        self.noisy += verdict.noisy
        self.worst = max(self.worst, verdict.error)

    def __str__(self) -> str:
        return (
            f"{self.graphs} graphs, {self.with_groups} of them pruned; atoms: {self.free} free, "
            f"{self.pruned} pruned, {self.coupled} of those under a statistic; worst error {self.worst:.1e}; "
            f"{self.noisy} ill-conditioned; {self.failures} failures"
        )


def one(seed: int, index: int, folder: Path) -> Verdict | None:
    """Check graph `index`; a failure is saved."""
    random = Random(f"{seed}-{index}")
    case = build(random)
    state = random.getstate()
    try:
        return check(case, random)
    except Exception as error:
        random.setstate(state)
        save(folder / f"{seed}-{index}", case, random, error)
        return None


def run(seed: int, indices: range, jobs: int, folder: Path) -> Iterator[Verdict | None]:
    """The verdicts in order."""
    if jobs == 1:
        yield from (one(seed, index, folder) for index in indices)
        return
    with ProcessPoolExecutor(jobs) as pool:
        count = len(indices)
        yield from pool.map(one, [seed] * count, indices, [folder] * count, chunksize=10)


def main() -> int:
    """Returns the exit code: 1 where any graph failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("--examples", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first graph")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--save", type=Path, default=Path(".cache/fuzz"), metavar="FOLDER")
    parser.add_argument("--replay", type=Path, metavar="ONNX")
    options = parser.parse_args()
    if options.replay:
        print(replay(options.replay))
        return 0
    print(f"onnx {onnx.__version__}; failures go to {options.save}", flush=True)
    totals, begin = Totals(), time.perf_counter()
    indices = range(options.first, options.first + options.examples)
    for verdict in run(options.seed, indices, options.jobs, options.save):
        totals.add(verdict)
        if totals.graphs % STEP == 0:
            print(f"{time.perf_counter() - begin:6.0f} s  {totals}", flush=True)
    print(f"done after {time.perf_counter() - begin:.0f} s: {totals}")
    return int(totals.failures > 0)


if __name__ == "__main__":
    raise SystemExit(main())
