"""Plans are predictions: what a budget in measured latency promises is measured, and planned again where it fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from pruneopt.analysis.axes import Axis
from pruneopt.errors import PruneoptError
from pruneopt.model import Model
from pruneopt.passes.planning.tally import Limit
from pruneopt.passes.runtime import Progress

Kept = dict[Axis, int]
ROUNDS = 6  # plans that are measured, at most
USED = 0.97  # of the budget; a plan that uses less is worth another round
LEAST = 0.6  # of the budget: where not even a plan for that holds, it is the measurements that are wrong
CAREFUL = 0.99  # of what would just do: measurements differ by about as much


class Watch(Protocol):
    """Knows how long models take."""

    def limit(self, share: float) -> Limit:
        """A share of the original's latency, as a budget that planners follow."""

    def measure(self, model: Model, kept: Kept) -> float:
        """Share of the original's latency that the model of these sizes has, in turns."""


class Search:
    """Plans for one target after another, between targets that were fast enough and targets that were not.

    Attributes:
        rounds: the share `planned` and the share `measured` of each.
        best: the largest share measured that is within the budget, and its sizes.
    """

    def __init__(self, share: float) -> None:
        self.share = self.target = share
        self.rounds: list[Mapping[str, float]] = []
        self.best: tuple[float, Kept] | None = None
        self.low, self.high = 0.0, 1.0

    def failed(self) -> bool:
        """No plan is as small as the target: whether that ends the search."""
        if self.best is not None or self.target >= self.high:
            return True
        self.low = self.target
        self.target = (self.low + self.high) / 2
        return False

    def learnt(self, measured: float, kept: Kept) -> bool:
        """What a plan for the target came to: whether that ends the search."""
        self.rounds.append({"planned": self.target, "measured": measured})
        fits = measured <= self.share
        if fits and (self.best is None or measured > self.best[0]):
            self.best = measured, kept
        if USED * self.share <= measured <= self.share or (not fits and self.target <= LEAST * self.share):
            return True
        self.low, self.high = (
            (max(self.low, self.target), self.high) if fits else (self.low, min(self.high, self.target))
        )
        self.target = max(self._next(self.target * CAREFUL * self.share / measured), LEAST * self.share)
        return False

    def _next(self, wanted: float) -> float:
        """What the last measurement calls for, if it lies between what was fast enough and what was not."""
        return wanted if self.low < wanted < self.high else (self.low + self.high) / 2


def confirmed(
    share: float,
    plan: Callable[[Sequence[Limit]], Kept],
    build: Callable[[Kept], Model],
    watch: Watch,
    progress: Progress,
) -> tuple[Kept, list[Mapping[str, float]]]:
    """The widest plan whose measured latency is at most `share` of the original's.

    Args:
        share: of the original's latency.
        plan: sizes within limits; raises PruneoptError where they cannot be met.
        build: the model of these sizes.
        watch: knows the times.
        progress: told of every measurement.

    Returns:
        The sizes, and for each round the share `planned` and the share `measured`.

    Raises:
        PruneoptError: no plan is fast enough; `least` in its details is the least share that was reached.
    """
    search = Search(share)
    for _ in range(ROUNDS):
        try:
            kept = plan([watch.limit(search.target)])
        except PruneoptError:
            if not search.rounds:
                raise
            ended = search.failed()
        else:
            measured = watch.measure(build(kept), kept)
            progress(f"latency: {measured:.3f} of the original's")
            ended = search.learnt(measured, kept)
        if ended:
            break
    if search.best is None:
        raise _out_of_reach(search.rounds)
    return search.best[1], search.rounds


def _out_of_reach(rounds: Sequence[Mapping[str, float]]) -> PruneoptError:
    least = min((r["measured"] for r in rounds), default=1.0)
    return PruneoptError(
        f"the budget cannot be met: the latency cannot be brought below {least:.3f} of the input's as measured; on "
        "a busy machine try again with --threads 1, else see 'pruneopt inspect' for what is frozen, or allow "
        "groups under a norm with --passes 'width{latency=...,coupled=true}'",
        least={"latency": least},
    )
