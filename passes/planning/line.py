"""Plans along a line: one number says how much every group keeps; the largest within the budgets is taken.

What differs between planners is the line and whose turn it is to grow with what the rounding leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pruneopt.analysis.axes import Axis
from pruneopt.analysis.groups import Group, alignment
from pruneopt.passes.planning.tally import Limit, Tally, unmet, worthwhile

Kept = dict[Axis, int]
USED = 0.99  # of the tightest budget; below, alignment is given up, group by group, to use more of it
USED_MEASURED = 0.92  # the same for measured costs, which odd widths can raise
HALVINGS = 10  # of the interval of the number


@dataclass(frozen=True)
class Line:
    """A family of plans.

    Attributes:
        at: a number in [0, 1] -> the entries that each group would keep, not rounded; none falls as it rises.
        turn: (group, entries it keeps) -> its place in the queue of those that want an entry more, least first.
    """

    at: Callable[[float], Mapping[Group, float]]
    turn: Callable[[Group, int], float]


def rounded(group: Group, count: float, align: int) -> int:
    """The multiple of the group's alignment next to a number of entries; at least one, at most the whole."""
    step = alignment(group, align)
    return min(group.size, max(step, group.least, round(count / step) * step))


def furthest(groups: Sequence[Group], line: Line, limits: Sequence[Limit], align: int, floor: float) -> Kept:
    """The last plan of a line that all limits allow, topped up in steps of the alignment, then in finer ones.

    Raises:
        PruneoptError: not even the floors of all groups are within the limits.
    """
    return _Walk(groups, line, limits, align, floor).run()


class _Walk:
    """Sizes that the groups may have, and the budgets' state."""

    def __init__(
        self, groups: Sequence[Group], line: Line, limits: Sequence[Limit], align: int, floor: float
    ) -> None:
        self.groups, self.line, self.limits = groups, line, limits
        self.align, self.floor = align, floor
        self.tallies = [Tally(limit) for limit in limits]
        self.used = USED_MEASURED if any(limit.uneven for limit in limits) else USED
        self.sizes = self._sizes()

    def _sizes(self) -> dict[Axis, list[int]]:
        found = {}
        for g in self.groups:
            step, least = alignment(g, self.align), rounded(g, self.floor * g.size, self.align)
            aligned = [g.size, *range((g.size - 1) // step * step, least - 1, -step)]
            found[g.atom] = worthwhile(g.atom, aligned, self.limits)
        return found

    def run(self) -> Kept:
        kept = self._largest()
        while True:
            self._top_up(kept)
            if self.align == 1 or max(t.total / t.limit.most for t in self.tallies) >= self.used:
                return kept
            self.align //= 2
            self.sizes = self._sizes()

    def _fits(self, kept: Kept) -> bool:
        """Whether the budgets hold at these sizes, to which the tallies are set."""
        totals = [t.set(kept) <= t.limit.most for t in self.tallies]  # every tally has to follow
        return all(totals)

    def _plan(self, number: float) -> Kept:
        wanted = self.line.at(number)
        return {g.atom: self._near(g, max(wanted[g], self.floor * g.size)) for g in self.groups}

    def _near(self, group: Group, count: float) -> int:
        return min(self.sizes[group.atom], key=lambda size: (abs(size - count), size))

    def _largest(self) -> Kept:
        if not self._fits(self._plan(0.0)):
            raise unmet(self.tallies)
        low, high = 0.0, 1.0
        if self._fits(self._plan(high)):
            return self._plan(high)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if self._fits(self._plan(middle)) else (low, middle)
        return self._plan(low)

    def _top_up(self, kept: Kept) -> None:
        """Let the group grow whose turn it is, a step at a time, until nothing fits any more."""
        self._fits(kept)
        growing = list(self.groups)
        while growing:
            group = min(growing, key=lambda g: self.line.turn(g, kept[g.atom]))
            if not self._grow(group, kept):
                growing.remove(group)

    def _grow(self, group: Group, kept: Kept) -> bool:
        before = kept[group.atom]
        after = min((n for n in self.sizes[group.atom] if n > before), default=before)
        if after > before and self._fits({group.atom: after}):
            kept[group.atom] = after
            return True
        self._fits({group.atom: before})
        return False
