"""Which blocks go: the cheapest ones first, until enough is gone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

from pruneopt.analysis.axes import volume
from pruneopt.analysis.blocks import Block, Blocks, Term
from pruneopt.errors import PruneoptError
from pruneopt.passes.context import Context
from pruneopt.passes.depth.judge import last_of_runs
from pruneopt.passes.depth.study import feature_dimension
from pruneopt.passes.planning.costs import shares_of, whole_costs

Damage = Callable[[Sequence[Block]], float]


@dataclass(frozen=True)
class Goal:
    """How much has to go: a number of blocks, or a share of a cost.

    Attributes:
        count: blocks to drop; nothing where a share is meant.
        shares: cost -> share of the user's model's to keep at most (`macs`, `params`).
    """

    count: int | None
    shares: dict[str, float]


class Costs:
    """Costs saved by dropping blocks, as shares of those of the model that the user gave.

    Attributes:
        mapped: each run of dropped blocks gets a linear map in its place, which costs something itself.
    """

    def __init__(self, blocks: Blocks, context: Context, mapped: bool = False) -> None:
        self.blocks = blocks
        self.mapped = mapped
        self.own, self.whole = (of(blocks.analysis.model, context) for of in (shares_of, whole_costs))
        self._maps: dict[str, dict[str, int]] = {}
        self.terms = {"macs": blocks.macs_terms, "params": blocks.params_terms}

    def saved(self, cost: str, dropped: Sequence[Block]) -> float:
        """Share of a cost that goes with these blocks together."""
        gone = _volume(self.terms[cost](self.blocks.removed(dropped)))
        added = sum(self._map(block)[cost] for block in last_of_runs(dropped)) if self.mapped else 0
        return (gone - added) / max(self.whole[cost], 1)

    def left(self, cost: str, dropped: Sequence[Block]) -> float:
        """Share of a cost that is left without these blocks."""
        return self.own[cost] - self.saved(cost, dropped)

    def _map(self, block: Block) -> dict[str, int]:
        """What a linear map of a block's features costs."""
        if block.name not in self._maps:
            sizes = [axis.size[-1] for axis in self.blocks.analysis.axes[block.entry]]
            features = sizes[feature_dimension(self.blocks, block)]
            found = {"macs": prod(sizes) * features, "params": features * (features + 1)}
            self._maps[block.name] = found
        return self._maps[block.name]

    def missing(self, goal: Goal, dropped: Sequence[Block]) -> float:
        """How much is still to go, 0 where the goal is met: blocks, or the largest excess over a share."""
        if goal.count is not None:
            return float(max(0, goal.count - len(dropped)))
        over = (self.left(cost, dropped) - share for cost, share in goal.shares.items())
        return max(0.0, *(excess if excess > 1e-9 else 0.0 for excess in over))


def by_score(units: Sequence[Block], scores: dict[str, float], goal: Goal, costs: Costs) -> list[Block]:
    """Blocks of the lowest scores until the goal is met, then those given back that were not needed."""
    dropped: list[Block] = []
    for unit in sorted(units, key=lambda u: scores[u.name]):
        if costs.missing(goal, dropped) <= 0:
            break
        dropped.append(unit)
    _check(goal, costs, dropped, len(units))
    for unit in sorted(dropped, key=lambda u: -scores[u.name]):
        rest = [b for b in dropped if b is not unit]
        if costs.missing(goal, rest) <= 0:
            dropped = rest
    return dropped


def greedy(
    units: Sequence[Block], damage: Damage, goal: Goal, costs: Costs
) -> tuple[list[Block], list[tuple[str, float]]]:
    """Blocks chosen one after the other, each of the least added damage per saving (SLEB).

    Returns:
        The blocks, and the trade-off curve: the block dropped at each step and the damage after it.
    """
    dropped: list[Block] = []
    curve: list[tuple[str, float]] = []
    while (missing := costs.missing(goal, dropped)) > 0 and len(dropped) < len(units):
        base = curve[-1][1] if curve else 0.0
        found = []
        for unit in units:
            worth = 0.0 if unit in dropped else min(_worth(goal, costs, dropped, unit), missing)
            if worth > 0:
                after = damage([*dropped, unit])
                found.append(((after - base) / worth, after, unit.name, unit))
        if not found:
            break
        _, after, name, unit = min(found, key=lambda each: each[:3])
        dropped.append(unit)
        curve.append((name, after))
    _check(goal, costs, dropped, len(units))
    return _relieved(dropped, damage, goal, costs), curve


def _relieved(dropped: list[Block], damage: Damage, goal: Goal, costs: Costs) -> list[Block]:
    """Gives back blocks without which the goal is met, too, the most harmful first."""
    while True:
        rests = [[b for b in dropped if b is not unit] for unit in dropped]
        rests = [rest for rest in rests if costs.missing(goal, rest) <= 0]
        if not rests:
            return dropped
        dropped = min(rests, key=damage)


def _worth(goal: Goal, costs: Costs, dropped: Sequence[Block], unit: Block) -> float:
    """What a block's removal adds towards the goal."""
    if goal.count is not None:
        return 1.0
    return sum(costs.saved(c, [*dropped, unit]) - costs.saved(c, dropped) for c in goal.shares)


def _check(goal: Goal, costs: Costs, dropped: Sequence[Block], count: int) -> None:
    if costs.missing(goal, dropped) <= 0:
        return
    if goal.count is not None:
        raise PruneoptError(
            f"depth: {goal.count} blocks are to go, but only {count} can; see 'pruneopt inspect'"
        )
    least = {c: costs.left(c, dropped) for c in goal.shares}
    words = " and ".join(f"{c} cannot go below {share:.3f} of the input's" for c, share in least.items())
    raise PruneoptError(
        f"depth: the budget cannot be met: {words} with all {count} blocks gone that can go; "
        "see 'pruneopt inspect' for the others, or give width a share of it",
        least=least,
    )


def _volume(terms: Sequence[Term]) -> int:
    return sum(map(volume, terms))
