"""The plan without data: every group keeps the same share, the largest share that the budgets allow."""

from __future__ import annotations

from collections.abc import Sequence

from pruneopt.analysis.axes import Axis
from pruneopt.analysis.groups import Group
from pruneopt.errors import PruneoptError
from pruneopt.passes.planning.line import Kept, Line, furthest, rounded
from pruneopt.passes.planning.tally import Limit


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
    return {g.atom: rounded(g, max(ratio, floor) * g.size, align) for g in groups}


def within(groups: Sequence[Group], limits: Sequence[Limit], align: int, floor: float) -> Kept:
    """The largest uniform share within all limits; those that have given most get what is left.

    Where one group of each product does not suffice, all groups are used.

    Raises:
        PruneoptError: not even the floors of all groups are within the limits.
    """
    line = Line(lambda ratio: {g: ratio * g.size for g in groups}, lambda group, kept: kept / group.size)
    try:
        return furthest(leaders(groups), line, limits, align, floor)
    except PruneoptError:
        return furthest(groups, line, limits, align, floor)
