"""The plan without data: every group keeps the same share, the largest share that the budgets allow."""

from __future__ import annotations

from collections.abc import Sequence

from pruneopt.analysis.axes import Axis
from pruneopt.analysis.groups import Group, alignment
from pruneopt.passes.planning.tally import Limit, Tally, unmet

Kept = dict[Axis, int]
USED = 0.92  # of the tightest budget; below, alignment is given up to use more of it
STEPS = 64  # shares tried between the floor and 1


def leaders(groups: Sequence[Group]) -> list[Group]:
    """At most one group of each product: halving heads and head widths at once would quarter the axis.

    The largest goes first: it can be cut finest.
    """
    chosen: set[Axis] = set()
    for group in sorted(groups, key=lambda g: -g.size):
        if not group.cofactors & chosen:
            chosen.add(group.atom)
    return [g for g in groups if g.atom in chosen]


def share(groups: Sequence[Group], ratio: float, align: int, floor: float) -> Kept:
    """Each group keeps `ratio` of its entries, at least `floor` of them, rounded to its alignment."""
    return {g.atom: _rounded(g, max(ratio, floor), align) for g in groups}


def _rounded(group: Group, ratio: float, align: int) -> int:
    step = alignment(group, align)
    kept = max(step, round(ratio * group.size / step) * step)
    return min(kept, group.size)


def within(groups: Sequence[Group], limits: Sequence[Limit], align: int, floor: float) -> Kept:
    """The largest uniform share within all limits, topped up group by group to use what is left.

    Where one group of each product does not suffice, all groups are used.

    Raises:
        PruneoptError: not even the floors of all groups are within the limits.
    """
    for candidates in (leaders(groups), list(groups)):
        tallies = [Tally(limit) for limit in limits]
        if _fits(tallies, share(candidates, 0.0, align, floor)):
            kept = _largest(candidates, tallies, align, floor)
            return _use_up(candidates, kept, tallies, align)
    raise unmet(tallies)


def _fits(tallies: Sequence[Tally], kept: Kept) -> bool:
    totals = [t.set(kept) <= t.limit.most for t in tallies]  # every tally has to follow
    return all(totals)


def _largest(groups: Sequence[Group], tallies: Sequence[Tally], align: int, floor: float) -> Kept:
    low, high = 0, STEPS
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (
            (middle, high)
            if _fits(tallies, share(groups, middle / STEPS, align, floor))
            else (low, middle - 1)
        )
    return share(groups, low / STEPS, align, floor)


def _use_up(groups: Sequence[Group], kept: Kept, tallies: Sequence[Tally], align: int) -> Kept:
    """Top up in aligned steps; in a small net these are coarse, and finer ones use what they leave."""
    while True:
        kept = _top_up(groups, kept, tallies, align)
        if align == 1 or max(t.total / t.limit.most for t in tallies) >= USED:
            return kept
        align //= 2


def _top_up(groups: Sequence[Group], kept: Kept, tallies: Sequence[Tally], align: int) -> Kept:
    """Grow the groups that have given most, a step each, until nothing fits any more."""
    _fits(tallies, kept)
    growing = [g for g in groups if kept[g.atom] < g.size]
    while growing:
        growing.sort(key=lambda g: kept[g.atom] / g.size)
        growing = [g for g in growing if _grow(g, kept, tallies, align) and kept[g.atom] < g.size]
    return kept


def _grow(group: Group, kept: Kept, tallies: Sequence[Tally], align: int) -> bool:
    before = kept[group.atom]
    after = min(group.size, before + alignment(group, align))
    if _fits(tallies, {group.atom: after}):
        kept[group.atom] = after
        return True
    _fits(tallies, {group.atom: before})
    return False
