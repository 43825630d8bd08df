"""NViT's redistribution of parameters (Yang et al. 2023, table 6) as a generator of shapes under any budget.

The table gives a vision transformer of width E and twelve blocks H = e E / 100 heads, query-key widths of e E / 20,
value widths of 64 and e 3 E neurons, with e = 2 in blocks 4 to 9 and 1 elsewhere. As shares of the dense shapes E / 64,
64, 64 and 4 E (E = 768): 0.64 e, 0.6 e, 1 and 0.75 e. Each group keeps its share times one number for all, at most the
whole, that the budgets set: middle blocks large and the ends small, query-key widths first, values last. A block's
place is that of a group among those of its kind, in graph order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pruneopt.analysis.axes import Axis
from pruneopt.analysis.groups import Group
from pruneopt.passes.planning.line import Line, furthest
from pruneopt.passes.planning.tally import Limit

SHARES = {"heads": 0.64, "score": 0.6, "inner": 0.75}  # times e; all else is 1 throughout
MIDDLE = (0.25, 0.75)  # blocks 4 to 9 of 12


def shares(groups: Sequence[Group], kinds: Mapping[Group, str]) -> dict[Group, float]:
    """What the table gives each group, as a share of its size; the middle ones of a kind up to twice the others."""
    found = {}
    for kind in dict.fromkeys(kinds[g] for g in groups):
        own = [g for g in groups if kinds[g] == kind]
        for i, group in enumerate(own):
            middle = MIDDLE[0] <= (i + 0.5) / len(own) < MIDDLE[1]
            found[group] = SHARES[kind] * (2 if middle else 1) if kind in SHARES else 1.0
    return found


def redistributed(
    groups: Sequence[Group], kinds: Mapping[Group, str], limits: Sequence[Limit], align: int, floor: float
) -> dict[Axis, int]:
    """Sizes in the proportions of `shares`, the largest that all limits allow; the furthest below grow with the rest.

    Raises:
        PruneoptError: not even the floors of all groups are within the limits.
    """
    wanted = shares(groups, kinds)
    most = 1 / min(wanted.values(), default=1.0)
    line = Line(
        lambda number: {g: min(1.0, number * most * wanted[g]) * g.size for g in groups},
        lambda group, kept: kept / (wanted[group] * group.size),
    )
    return furthest(groups, line, limits, align, floor)
