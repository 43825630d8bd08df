"""How much of what pruning loses `recover` wins back: `python -m benchmarks.recover --cache FOLDER`.

Fashion-MNIST networks (see `benchmarks.accuracy.fashion`) at a share of their MACs, one criterion after the other with
the same uniform plan and repair, and the default plan; then each of them learns from the dense network on the same
unlabelled training images. Prints a table in Markdown; scores are top-1 on the 10,000 test images.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import pruneopt as po
from benchmarks.accuracy import fashion_cnn, fashion_vit
from benchmarks.accuracy.fashion import SEED, images
from benchmarks.accuracy.task import Task
from pruneopt.api import make_context
from pruneopt.model import Model
from pruneopt.passes.base import Context, Pipeline
from pruneopt.passes.recover import Recover
from pruneopt.passes.repair import Repair
from pruneopt.passes.simplify import Simplify
from pruneopt.passes.width import Width

TASKS = {"fashion_cnn": fashion_cnn.task, "fashion_vit": fashion_vit.task}
CHOICES = ("l2", "taylor", "fisher", "default")


@dataclass(frozen=True)
class Row:
    """One network, pruned one way: top-1 in percent, seconds, and epochs of the recovery."""

    net: str
    choice: str
    dense: float
    pruned: float
    recovered: float
    prune_seconds: float
    seconds: float
    epochs: int

    @property
    def won_back(self) -> float:
        """Share of the loss that is won back, in percent."""
        return 100 * (self.recovered - self.pruned) / (self.dense - self.pruned)

    def __str__(self) -> str:
        return (
            f"| {self.net} | {self.choice} | {self.dense:.2f} | {self.pruned:.2f} | {self.recovered:.2f} "
            f"| {self.won_back:.0f} % | {self.prune_seconds:.0f} | {self.seconds:.0f} | {self.epochs} |"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all and print the table row by row."""
    options = _options(arguments)
    print(
        "| network | criterion | dense | pruned | recovered | won back | pruning, s | recovery, s | epochs |"
    )
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|")
    for net in options.nets:
        task = TASKS[net](options.cache)
        model = po.load(task.model)
        context = make_context(model, _inputs(options.images))
        dense = _score(task, model, context)
        for choice in options.choices:
            row = measure(task, choice, context, dense, options)
            print(row, flush=True)


def _options(arguments: Sequence[str] | None) -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="folder of the trained networks")
    parser.add_argument("--nets", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--choices", nargs="+", default=list(CHOICES), help="criteria, or default")
    parser.add_argument("--macs", type=float, default=0.5)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--images", type=int, default=4096, help="unlabelled training images")
    return parser.parse_args(arguments)


def _inputs(count: int) -> list[dict[str, Any]]:
    pick = np.random.default_rng(SEED).permutation(60_000)[:count]
    seen = images("train")[0][pick]
    return [{"image": seen[i : i + 32]} for i in range(0, count, 32)]


def measure(task: Task, choice: str, context: Context, dense: float, options: Any) -> Row:
    """Prune, score, recover, score. `context` is of the task's model, which it keeps as the original."""
    original = context.original
    if original is None:
        raise ValueError("the context has no original model")
    macs = options.macs
    width = Width(macs=macs) if choice == "default" else Width(macs=macs, criterion=choice, plan="uniform")
    begin = time.perf_counter()
    pruned = Pipeline((Simplify(), width, Repair())).run(original, context).model
    middle = time.perf_counter()
    recover = Recover(minutes=options.minutes, epochs=options.epochs)
    outcome = Pipeline((recover,)).run(pruned, context)
    end = time.perf_counter()
    before, after = (_score(task, each, context) for each in (pruned, outcome.model))
    trained = outcome.entry["passes"][0]["epochs"]
    return Row(task.name, choice, dense, before, after, middle - begin, end - middle, trained)


def _score(task: Task, model: Model, context: Context) -> float:
    session = context.session(model)
    name = model.outputs[0].name
    return 100 * float(task.score(lambda batch: session.run(batch)[name])["top1"])


if __name__ == "__main__":
    main()
