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
    rounds: list[Mapping[str, float]] = []
    best: tuple[float, Kept] | None = None
    low, high = 0.0, 1.0  # targets that were fast enough, and that were not
    target = share
    for _ in range(ROUNDS):
        try:
            kept = plan([watch.limit(target)])
        except PruneoptError:
            if not rounds:
                raise
            if best is not None or target >= high:
                break
            low = target  # nothing is as small as that
            target = (low + high) / 2
            continue
        measured = watch.measure(build(kept), kept)
        rounds.append({"planned": target, "measured": measured})
        progress(f"latency: {measured:.3f} of the original's")
        if measured <= share and (best is None or measured > best[0]):
            best = measured, kept
        if USED * share <= measured <= share:
            break
        low, high = (max(low, target), high) if measured <= share else (low, min(high, target))
        if measured > share and target <= LEAST * share:
            break
        target = max(_next(target * CAREFUL * share / measured, low, high), LEAST * share)
    if best is None:
        raise _out_of_reach(rounds)
    return best[1], rounds


def _next(wanted: float, low: float, high: float) -> float:
    """What the last measurement calls for, if it lies between what was fast enough and what was not."""
    return wanted if low < wanted < high else (low + high) / 2


def _out_of_reach(rounds: Sequence[Mapping[str, float]]) -> PruneoptError:
    least = min((r["measured"] for r in rounds), default=1.0)
    return PruneoptError(
        f"the budget cannot be met: the latency cannot be brought below {least:.3f} of the input's as measured; on "
        "a busy machine try again with --threads 1, else see 'pruneopt inspect' for what is frozen, or allow "
        "groups under a norm with --passes 'width{latency=...,coupled=true}'",
        least={"latency": least},
    )
