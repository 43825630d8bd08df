"""Picks the knobs of one layer's kernel by measuring: successive halving, with records of what is known.

All candidates get a few runs in turns, the better third more, the best of these most: what is clearly slow costs
little, and a busy machine harms all alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pruneopt.backends.tvm.candidates import blocks, candidates, family, varied
from pruneopt.backends.tvm.compiler import Plan
from pruneopt.backends.tvm.layer import Layer, Schedule
from pruneopt.backends.tvm.measure import Trial, Work
from pruneopt.backends.tvm.records import Records, key
from pruneopt.backends.tvm.target import Target

ROUNDS = (3, 9, 27)  # runs in each stage
WARM = 3  # runs before one that counts: results must have come to stay in the cache of the last level
KEPT = 3  # one in so many goes on
FAR = 1.5  # times slower than the best that is known
SLOW = 0.05  # seconds of a run from which on fewer are made


class Timed(Protocol):
    """A kernel that is ready to run, here or on a board."""

    def seconds(self) -> float:
        """How long one run takes."""


@dataclass(frozen=True)
class Best:
    """The fastest schedule that is known, and its time of one run in seconds."""

    schedule: Schedule
    seconds: float
    trials: int


def tune(
    layer: Layer,
    work: Work,
    target: Target,
    records: Records,
    trials: int,
    tried: Callable[[float], None] = lambda best: None,
    trial: Callable[[Plan, Target, Work], Timed] = Trial,
) -> Best:
    """The best of `trials` schedules; `tried` is told the best time so far after each measurement.

    What the records know is not measured again, and what is measured is recorded after each round of turns.
    """
    block = blocks(work.weight)[0]
    density = float((work.weight != 0).mean())
    name = key(layer, block, density, work.n, target.key, work.threads)
    known = records.known(name)
    if known and records.finished(name) >= trials:
        return _best(known, 0)
    times = _Times(
        name, records, lambda each: trial(Plan(layer.plain(), each, target.lanes), target, work), tried, known
    )
    estimates = candidates(layer, block, work.n, target.lanes, density)
    chosen = _chosen(estimates, trials, times.first)
    for rounds in ROUNDS:
        times.measure(chosen, rounds)
        chosen = _better(chosen, known)
    records.finish(name, trials)
    return _best(known, times.measured)


@dataclass
class _Times:
    """What one layer's schedules take: `known` from the records under `name`, or measured now and recorded at once."""

    name: str
    records: Records
    make: Callable[[Schedule], Timed]
    tried: Callable[[float], None]
    known: dict[Schedule, tuple[float, int]]
    measured: int = 0
    _ready: dict[Schedule, Timed] = field(default_factory=dict)

    def first(self, schedule: Schedule) -> float:
        """Seconds of one run, as far as a few can tell."""
        self.measure([schedule], ROUNDS[0])
        return self.known[schedule][0]

    def measure(self, schedules: Sequence[Schedule], rounds: int) -> None:
        """Makes times by at least so many rounds known."""
        new = [each for each in schedules if self.known.get(each, (0.0, 0))[1] < rounds]
        for schedule in new:
            if schedule not in self._ready:
                self._ready[schedule] = self.make(schedule)
        for schedule, seconds in zip(new, _turns([self._ready[each] for each in new], rounds), strict=True):
            self.known[schedule] = seconds, rounds
            self.records.add(self.name, schedule, seconds, rounds)
            self.measured += 1
        for _ in schedules:
            self.tried(min(each for each, _ in self.known.values()))


def _chosen(
    estimates: Mapping[Schedule, float], trials: int, seconds: Callable[[Schedule], float]
) -> list[Schedule]:
    """The best of each family, then the best by estimates that are corrected with what these take.

    Those that should be `FAR` slower than what is known are left out.
    """
    firsts: dict[Any, Schedule] = {}
    for each in estimates:
        firsts.setdefault(family(each), each)
    found = list(firsts.values())[:trials]
    scale = {family(each): seconds(each) / estimates[each] for each in found}
    corrected = {
        each: time * scale[family(each)] for each, time in estimates.items() if family(each) in scale
    }
    most = FAR * min(corrected[each] for each in found)
    ranked = sorted(
        (each for each in corrected if corrected[each] < most and each not in found),
        key=corrected.__getitem__,
    )
    return [*found, *varied(ranked)][:trials]


def _turns(ready: Sequence[Timed], rounds: int) -> list[float]:
    """What a quarter of the runs of each beats, each after some that warm up: other work only makes runs slower."""
    slow = max((each.seconds() for each in ready), default=0.0) > SLOW
    times: list[list[float]] = [[] for _ in ready]
    for _ in range(max(1, rounds // 3) if slow else rounds):
        for each, own in zip(ready, times, strict=True):
            own.append([each.seconds() for _ in range(WARM + 1)][-1])
    return [sorted(own)[len(own) // 4] for own in times]


def _better(chosen: Sequence[Schedule], known: dict[Schedule, tuple[float, int]]) -> list[Schedule]:
    ranked = sorted(chosen, key=lambda schedule: known[schedule][0])
    return ranked[: max(2, -(-len(ranked) // KEPT))]


def _best(known: dict[Schedule, tuple[float, int]], trials: int) -> Best:
    """The fastest among those that were measured most."""
    most = max(rounds for _, rounds in known.values())
    seconds, schedule = min(
        ((s, each) for each, (s, rounds) in known.items() if rounds == most), key=lambda pair: pair[0]
    )
    return Best(schedule, seconds, trials)
