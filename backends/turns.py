"""Latency measured in turns, so that a machine that slows down slows all that is compared."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pruneopt.arrays import Feeds
from pruneopt.backends.cores import bound

PATIENCE = 4
PRECISE = 0.005  # standard error of a ratio that is good enough, as a share of it
SETTLED = 0.02  # seconds of runs by several threads before one counts
BURST = 0.01  # seconds of runs by several threads, of which the median counts
CALM = 1.15  # times the best eighth of the rounds: several threads that take longer were held up


class Timed(Protocol):
    """What runs, the clock that says how long, and the cores of its threads if there are several."""

    clock: Callable[[], float]
    cores: list[int]

    def run(self, feeds: Feeds) -> Any:
        """One run."""


@dataclass(frozen=True)
class Timing:
    """How long one session takes: milliseconds, and the ratio to the first session of the same rounds.

    `spread` is the interquartile range of that ratio over the rounds: differences below it are noise.
    """

    median_ms: float
    ratio_to_first: float
    spread: float

    def error(self, rounds: int) -> float:
        """Standard error of the ratio, a median of so many rounds: 1.25 deviations, of which the spread is 1.35."""
        return float(1.25 / 1.35 * self.spread / rounds**0.5)


def interleaved(
    sessions: Sequence[Timed], feeds: Sequence[Feeds], seconds: float = 1.0, min_rounds: int = 3
) -> list[Timing]:
    """Times sessions in turns (A B, B A, ...), so that a machine that slows down slows all of them.

    Each session gets its own feeds. Rounds go on for `seconds` after one round of warm-up, each in a random
    order, and for `min_rounds` in any case; where the ratios are not known well then, for up to PATIENCE times as
    long. Runs of several threads count once they are what they would be if nothing else ran (`steady`, `calm`).
    """
    order = list(range(len(sessions)))
    rounds: list[list[float]] = []
    shuffle = random.Random(0).shuffle
    for session, batch in zip(sessions, feeds, strict=True):
        session.run(batch)
    for _ in range(PATIENCE):
        end = time.perf_counter() + seconds
        while len(rounds) < min_rounds or time.perf_counter() < end:
            shuffle(order)
            spent = {index: 1000 * _turn(sessions[index], feeds[index]) for index in order}
            rounds.append([spent[index] for index in range(len(sessions))])
        used = calm(rounds) if any(session.cores for session in sessions) else rounds
        timings = [_timing(used, index) for index in range(len(sessions))]
        if all(each.error(len(used)) <= PRECISE * each.ratio_to_first for each in timings):
            break
    return timings


def calm(rounds: Sequence[list[float]]) -> list[list[float]]:
    """The rounds in which the first session was about as fast as it can be.

    The processors of a virtual machine may be moved apart for seconds, to cores that share no cache; then two threads
    are as slow as one, and ratios are others.
    """
    best = sorted(each[0] for each in rounds)[len(rounds) // 8]
    return [each for each in rounds if each[0] <= CALM * best]


def _turn(session: Timed, feeds: Feeds) -> float:
    return steady(lambda: session.run(feeds), session.clock, session.cores)


def steady(
    run: Callable[[], Any], clock: Callable[[], float], cores: list[int], settled: float = SETTLED
) -> float:
    """Seconds of one run of a session that has these cores to itself; one that has none is run once.

    Threads are slow to wake up, and those of others may be awake, so that runs count after `settled` seconds, and
    of some the median.
    """

    def once() -> float:
        start = clock()
        run()
        return clock() - start

    if not cores:
        return once()
    with bound(cores):
        start = time.perf_counter()
        while time.perf_counter() < start + settled:
            run()
        times = [once()]
        while sum(times) < BURST:
            times.append(once())
    return statistics.median(times)


def _timing(rounds: Sequence[Sequence[float]], index: int) -> Timing:
    ratios = [times[index] / times[0] for times in rounds]
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else 3 * ratios
    return Timing(statistics.median(times[index] for times in rounds), middle, high - low)
