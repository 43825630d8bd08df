"""The plan without data: every group keeps the same share, the largest share that the budgets allow."""

from __future__ import annotations

from collections.abc import Sequence

from pruneopt.analysis.axes import Axis
from pruneopt.analysis.groups import Group, alignment
from pruneopt.passes.planning.tally import Limit, Tally, unmet, worthwhile

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
    kept = max(step, group.least, round(ratio * group.size / step) * step)
    return min(kept, group.size)


def within(groups: Sequence[Group], limits: Sequence[Limit], align: int, floor: float) -> Kept:
    """The largest uniform share within all limits, topped up group by group to use what is left.

    Where one group of each product does not suffice, all groups are used.

    Raises:
        PruneoptError: not even the floors of all groups are within the limits.
    """
    for candidates in (leaders(groups), list(groups)):
        search = _Search(candidates, limits, align, floor)
        if search.fits(search.share(0.0)):
            return search.run()
    raise unmet(search.tallies)


class _Search:
    """Sizes that the groups may have, and the budgets' state."""

    def __init__(self, groups: Sequence[Group], limits: Sequence[Limit], align: int, floor: float) -> None:
        self.groups = groups
        self.limits = limits
        self.align = align
        self.floor = floor
        self.tallies = [Tally(limit) for limit in limits]
        self.sizes = self._sizes()

    def _sizes(self) -> dict[Axis, list[int]]:
        found = {}
        for g in self.groups:
            step, least = alignment(g, self.align), _rounded(g, self.floor, self.align)
            aligned = [g.size, *range((g.size - 1) // step * step, least - 1, -step)]
            found[g.atom] = worthwhile(g.atom, aligned, self.limits)
        return found

    def run(self) -> Kept:
        """Top up in aligned steps; in a small net these are coarse, and finer ones use what they leave."""
        kept = self._largest()
        while True:
            kept = self._top_up(kept)
            if self.align == 1 or max(t.total / t.limit.most for t in self.tallies) >= USED:
                return kept
            self.align //= 2
            self.sizes = self._sizes()

    def fits(self, kept: Kept) -> bool:
        """Whether the budgets hold at these sizes, to which the tallies are set."""
        totals = [t.set(kept) <= t.limit.most for t in self.tallies]  # every tally has to follow
        return all(totals)

    def share(self, ratio: float) -> Kept:
        """Each group's size next to `ratio` of it, or to the power of that which the budgets ask of it."""
        return {g.atom: self._near(g, max(ratio ** self._pull(g), self.floor)) for g in self.groups}

    def _pull(self, group: Group) -> float:
        return max((limit.pull.get(group.atom, 1.0) for limit in self.limits), default=1.0)

    def _near(self, group: Group, ratio: float) -> int:
        return min(self.sizes[group.atom], key=lambda size: (abs(size - ratio * group.size), size))

    def _largest(self) -> Kept:
        low, high = 0, STEPS
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.fits(self.share(middle / STEPS)) else (low, middle - 1)
        return self.share(low / STEPS)

    def _top_up(self, kept: Kept) -> Kept:
        """Grow the groups that have given most, a step each, until nothing fits any more."""
        self.fits(kept)
        growing = list(self.groups)
        while growing:
            growing.sort(key=lambda g: kept[g.atom] / g.size)
            growing = [g for g in growing if self._grow(g, kept)]
        return kept

    def _grow(self, group: Group, kept: Kept) -> bool:
        before = kept[group.atom]
        after = min((n for n in self.sizes[group.atom] if n > before), default=before)
        if after > before and self.fits({group.atom: after}):
            kept[group.atom] = after
            return True
        self.fits({group.atom: before})
        return False
