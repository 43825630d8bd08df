"""How much of what pruning loses `recover` wins back: `python -m benchmarks.recover --cache FOLDER`.

Networks of `benchmarks.accuracy` at a share of their MACs, one criterion after the other with the same uniform plan and
repair, or the default plan; then each of them learns from the dense network, without labels. Prints a table in
Markdown: the task's score, and the distance to the dense outputs, both on data that nobody has learned from.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import pruneopt as po
from benchmarks.accuracy import fashion_cnn, fashion_vit, minilm, smollm2
from benchmarks.accuracy.fashion import SEED, images
from benchmarks.accuracy.task import Feeds, Task, distance
from pruneopt.api import make_context
from pruneopt.model import Model
from pruneopt.passes.base import Outcome
from pruneopt.passes.context import Context
from pruneopt.passes.pipeline import Pipeline
from pruneopt.passes.spec import parse_passes

CHOICES = ("l2", "taylor", "default")


@dataclass(frozen=True)
class Net:
    """Where a network and its data come from.

    Attributes:
        task: the network and the data to judge on, given the folder of trained networks.
        unlabelled: at most so many rows to learn from.
        seen: how many of them pruning sees; recovery sees all.
    """

    task: Callable[[Path], Task]
    unlabelled: Callable[[int], list[Feeds]]
    seen: int = 1024


def _images(count: int) -> list[Feeds]:
    """Training images, without their labels."""
    pick = np.random.default_rng(SEED).permutation(60_000)[:count]
    seen = images("train")[0][pick]
    return [{"image": seen[i : i + 32]} for i in range(0, count, 32)]


NETS = {
    "fashion_cnn": Net(fashion_cnn.task, _images),
    "fashion_vit": Net(fashion_vit.task, _images),
    "minilm": Net(minilm.task, minilm.unlabelled),
    "smollm2": Net(smollm2.task, smollm2.unlabelled, 40),  # rows of 256 tokens
}


@dataclass(frozen=True)
class Look:
    """A model as it is judged: the task's first score, and the mean distance to the dense outputs."""

    score: float
    distance: float


@dataclass(frozen=True)
class Row:
    """One network, pruned one way; seconds of pruning and of recovery, and epochs of the latter."""

    net: str
    choice: str
    dense: Look
    pruned: Look
    recovered: Look
    prune_seconds: float
    seconds: float
    epochs: int
    rows: int

    def __str__(self) -> str:
        score = (self.recovered.score - self.pruned.score) / (self.dense.score - self.pruned.score)
        nearer = 1 - self.recovered.distance / self.pruned.distance
        return (
            f"| {self.net} | {self.choice} | {self.dense.score:.4g} | {self.pruned.score:.4g} "
            f"| {self.recovered.score:.4g} | {100 * score:.0f} % | {self.pruned.distance:.4f} "
            f"| {self.recovered.distance:.4f} | {100 * nearer:.0f} % | {self.prune_seconds:.0f} "
            f"| {self.seconds:.0f} | {self.rows} | {self.epochs} |"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all and print the table row by row."""
    options = _options(arguments)
    heads = "network | criterion | dense | pruned | recovered | won back | distance | after | won back"
    print(f"| {heads} | pruning, s | recovery, s | rows | epochs |")
    print("|---|---|" + "---:|" * 11, flush=True)
    for net in options.nets:
        for choice in options.choices:
            print(measure(NETS[net], choice, options), flush=True)


def _options(arguments: Sequence[str] | None) -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="folder of the trained networks")
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--choices", nargs="+", default=list(CHOICES), help="criteria, or default")
    parser.add_argument("--macs", type=float, default=0.5)
    parser.add_argument("--recover", default="minutes=10", help="options of the pass")
    parser.add_argument("--rows", type=int, default=20_000, help="of unlabelled data to learn from, at most")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args(arguments)


def measure(net: Net, choice: str, options: Any) -> Row:
    """Prune, look, recover, look."""
    task, data = net.task(options.cache), net.unlabelled(options.rows)
    original = po.load(task.model)
    few = data[: max(1, net.seen * len(data) // max(1, _rows(data)))]
    context = make_context(original, few, threads=options.threads)
    width = f"macs={options.macs}" + ("" if choice == "default" else f", criterion={choice}, plan=uniform")
    begin = time.perf_counter()
    pruned = _run(f"simplify, width{{{width}}}, repair", original, context).model
    middle = time.perf_counter()
    context.calibration, context.original = data, original
    context.progress = lambda text: print(f"[{time.perf_counter() - middle:.0f} s] {text}", file=sys.stderr)
    outcome = _run(f"recover{{{options.recover}}}", pruned, context)
    end = time.perf_counter()
    looks = [_look(task, each, context) for each in (original, pruned, outcome.model)]
    epochs = outcome.entry["passes"][0]["epochs"]
    return Row(
        task.name, choice, looks[0], looks[1], looks[2], middle - begin, end - middle, epochs, _rows(data)
    )


def _run(passes: str, model: Model, context: Context) -> Outcome:
    return Pipeline(parse_passes(passes)).run(model, context)


def _rows(data: list[Feeds]) -> int:
    return sum(len(next(iter(feeds.values()))) for feeds in data)


def _look(task: Task, model: Model, context: Context) -> Look:
    session = context.session(model)
    name = model.outputs[0].name
    original = context.session(po.load(task.model))
    held = next(iter(task.held.values()))
    pairs = [[each.run(batch)[name] for batch in held] for each in (original, session)]
    score = next(iter(task.score(lambda batch: session.run(batch)[name]).values()))
    return Look(float(score), distance(pairs[0], pairs[1], task.kind))


if __name__ == "__main__":
    main()
