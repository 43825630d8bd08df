"""How many entries each group keeps, from one threshold over all groups of a kind: the largest that a budget allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pruneopt.analysis.axes import Axis
from pruneopt.analysis.groups import Group, alignment
from pruneopt.passes.planning.tally import Limit, Tally, unmet

Kept = dict[Axis, int]
STEPS = 256  # shares tried between the floor and 1
USED = 0.99  # of the tightest budget; below, alignment is given up to use more of it


def choose(
    groups: Sequence[Group],
    kinds: Mapping[Group, str],
    scores: Mapping[Axis, npt.NDArray[Any]],
    limits: Sequence[Limit],
    align: int,
    floor: float,
) -> Kept:
    """The best-scored share of each kind of group, the same for all kinds, topped up entry by entry.

    Raises:
        PruneoptError: not even the floors of all groups are within the limits.
    """
    ranks = _ranks(groups, kinds, scores)
    tallies = [Tally(limit) for limit in limits]

    def fits(kept: Kept) -> bool:
        held = [t.set(kept) <= t.limit.most for t in tallies]  # every tally has to follow
        return all(held)

    def share(step: int, align: int) -> Kept:
        return {g.atom: _aligned(g, int((ranks[g] < step / STEPS).sum()), align, floor) for g in groups}

    if not fits(share(0, align)):
        raise unmet(tallies)
    low, high = 0, STEPS
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(share(middle, align)) else (low, middle - 1)
    kept = share(low, align)
    while True:
        _top_up(kept, groups, ranks, fits, align)
        if align == 1 or max(t.total / t.limit.most for t in tallies) >= USED:
            return kept
        align //= 2


def _ranks(
    groups: Sequence[Group], kinds: Mapping[Group, str], scores: Mapping[Axis, npt.NDArray[Any]]
) -> dict[Group, npt.NDArray[np.float64]]:
    """For each group the places of its entries among all of its kind, best first, in [0, 1); sorted."""
    found: dict[Group, npt.NDArray[np.float64]] = {}
    for kind in dict.fromkeys(kinds[g] for g in groups):
        own = [g for g in groups if kinds[g] == kind]
        all_scores = np.concatenate([scores[g.atom] for g in own])
        places = np.empty(all_scores.size)
        places[np.argsort(-all_scores, kind="stable")] = np.arange(all_scores.size) / all_scores.size
        cuts = np.cumsum([g.size for g in own])[:-1]
        found |= {g: np.sort(p) for g, p in zip(own, np.split(places, cuts), strict=True)}
    return found


def _aligned(group: Group, count: int, align: int, floor: float) -> int:
    """A number of entries in the group's steps, at least its floor."""
    step = alignment(group, align)
    least = max(step, group.least, round(floor * group.size / step) * step)
    return group.size if count == group.size else min(group.size, max(least, count // step * step))


def _top_up(
    kept: Kept, groups: Sequence[Group], ranks: Mapping[Group, npt.NDArray[np.float64]], fits: Any, align: int
) -> None:
    """Let the group grow whose next entry has the best place, until nothing fits any more."""
    fits(kept)
    growing = [g for g in groups if kept[g.atom] < g.size]
    while growing:
        group = min(growing, key=lambda g: ranks[g][kept[g.atom]])
        before = kept[group.atom]
        step = alignment(group, align)
        after = min(group.size, (before // step + 1) * step)
        if fits({group.atom: after}):
            kept[group.atom] = after
        else:
            fits({group.atom: before})
            growing.remove(group)
        growing = [g for g in growing if kept[g.atom] < g.size]
