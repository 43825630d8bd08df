"""A model with sparse weights in; the same model with tuned kernels, and their library, out.

Layers of one shape and pattern are tuned once. A kernel only stays where the whole model is faster with it: that
is measured with all other kernels in place (`gate`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pruneopt.backends.tvm.candidates import blocks
from pruneopt.backends.tvm.compiler import Plan
from pruneopt.backends.tvm.layer import VERSION, digest
from pruneopt.backends.tvm.library import build
from pruneopt.backends.tvm.measure import Trial, Work
from pruneopt.backends.tvm.records import Records, bucket
from pruneopt.backends.tvm.rewriting import rewrite
from pruneopt.backends.tvm.sites import Site, Sizes, find
from pruneopt.backends.tvm.target import Target
from pruneopt.backends.tvm.tuner import Best, Timed, tune
from pruneopt.errors import PruneoptError
from pruneopt.model import Model

Trials = Callable[[Plan, Target, Work], Timed]


@dataclass
class Group:
    """Sites that share one search: the same shape, pattern, density and number of rows."""

    sites: list[Site]
    best: Best | None = None
    gain: float = 0.0  # time of the whole model without these kernels, over that with them

    @property
    def pattern(self) -> list[int]:
        """Outputs that share their zeros, and the step of density that records know."""
        return [blocks(self.sites[0].weight)[0], bucket(self.sites[0].density)]


@dataclass
class Progress:
    """How far the tuning is. `tell` gets one line: trials per second, best so far, time left."""

    total: int
    tell: Callable[[str], None]
    done: int = 0
    start: float = field(default_factory=time.perf_counter)

    def tried(self, name: str, best: float) -> None:
        """One more trial of `name`, whose best time is `best` seconds."""
        self.done += 1
        speed = self.done / max(time.perf_counter() - self.start, 1e-9)
        left = max(0, self.total - self.done) / speed
        self.tell(f"tune {name}: best {best * 1e6:.0f} us, {speed:.1f} trials/s, {left:.0f} s left")


def groups(sites: Sequence[Site], n: Mapping[str, int]) -> list[Group]:
    """Sites by what their kernels have in common; `n` is the number of rows or images, by the name of y."""
    found: dict[Any, Group] = {}
    for site in sites:
        key = (site.layer.key(), tuple(blocks(site.weight)), bucket(site.density), n[site.y.name])
        found.setdefault(key, Group([])).sites.append(site)
    return list(found.values())


def tuned(
    model: Model,
    sizes: Sizes,
    target: Target,
    records: Records,
    trials: int,
    threads: int = 1,
    tell: Callable[[str], None] = lambda text: None,
    trial: Trials = Trial,
) -> tuple[list[Group], dict[str, str]]:
    """The best kernel for each sparse layer, and why others stay dense: name -> reason.

    `sizes` are those of the model's tensors in runs of a typical size, the last of which counts. Raises
    PruneoptError where no layer is sparse.
    """
    sites, left = find(model.graph, sizes)
    if not sites:
        reasons = "; ".join(f"{name}: {why}" for name, why in list(left.items())[:3])
        raise PruneoptError(
            "no MatMul, Gemm or Conv has a weight with enough zeros: prune with --sparsity first"
            + (f" ({reasons})" if reasons else "")
        )
    found = groups(sites, {site.y.name: site.n[-1] if site.n else 128 for site in sites})
    progress = Progress(len(found) * (trials + -(-trials // 3) + -(-trials // 9)), tell)
    for group in found:
        site = group.sites[0]
        work = Work(site.weight, site.n[-1] if site.n else 128, threads)
        name = site.node.name or site.y.name
        tried = partial(progress.tried, name)
        group.best = tune(site.layer, work, target, records, trials, tried, trial)
    return found, left


def plans(found: Sequence[Group], target: Target) -> dict[str, tuple[Site, Plan]]:
    """Site and plan of every site, by the name of its y."""
    return {
        site.y.name: (site, Plan(site.layer, group.best.schedule, target.lanes))
        for group in found
        if group.best is not None
        for site in group.sites
    }


def unique(chosen: Mapping[str, tuple[Site, Plan]]) -> list[Plan]:
    """The kernels to compile."""
    return list({plan.name: plan for _, plan in chosen.values()}.values())


def write_library(
    chosen: Mapping[str, tuple[Site, Plan]],
    target: Target,
    threads: int,
    path: Path,
    objects: Path | None = None,
) -> None:
    """The library of all kernels that `chosen` needs; `objects` is a folder of those compiled before."""
    build(unique(chosen), target, threads, path, objects)


def gated(
    model: Model,
    found: list[Group],
    target: Target,
    records: Records,
    where: Any,
    ratio: Callable[[Model, Model], float],
    tell: Callable[[str], None] = lambda text: None,
) -> list[Group]:
    """The groups whose kernels make the whole model faster.

    `ratio(a, b)` is the time of `a` over that of `b`. Each group is taken out of the model with all kernels that
    are still in; it stays out where that is no slower. Groups that should gain least go first. What was measured
    is recorded, and holds for models with the same nodes, patterns, densities in steps and kernels at the same
    `where` (sizes and threads).
    """
    names = [[group.pattern, *_names(group, target)] for group in found]
    key = digest(VERSION, target.key, where, names, [node.op for node in model.graph.nodes])
    known = records.gains(key)
    if known is None:
        _race(model, found, target, ratio, tell)
        records.keep_gains(key, [group.gain for group in found])
    else:
        for group, gain in zip(found, known, strict=True):
            group.gain = gain
    return [group for group in found if group.gain > 1]


def _names(group: Group, target: Target) -> list[tuple[str, str]]:
    return sorted((y, plan.name) for y, (_, plan) in plans([group], target).items())


def _race(
    model: Model,
    found: list[Group],
    target: Target,
    ratio: Callable[[Model, Model], float],
    tell: Callable[[str], None],
) -> None:
    """Measures the gain of each group."""
    kept = sorted(found, key=_work)
    for group in list(kept):
        others = [each for each in kept if each is not group]
        with_it = rewrite(model, plans(kept, target))
        without = rewrite(model, plans(others, target)) if others else model
        group.gain = ratio(without, with_it)
        name = group.sites[0].node.name or group.sites[0].y.name
        tell(f"gate {name} and {len(group.sites) - 1} like it: {group.gain:.2f}x")
        if group.gain <= 1:
            kept = others


def _work(group: Group) -> float:
    """Multiplications that the group's kernels do, over all its sites."""
    return float(sum(np.count_nonzero(site.weight) * max(site.n, default=1) for site in group.sites))
