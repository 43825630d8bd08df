"""The plan from scores that can be compared between groups: one threshold over all groups of a kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from pruneopt.analysis.axes import Axis
from pruneopt.analysis.groups import Group
from pruneopt.arrays import Array
from pruneopt.passes.planning.line import Kept, Line, furthest
from pruneopt.passes.planning.tally import Limit


def ranked(
    groups: Sequence[Group],
    kinds: Mapping[Group, str],
    scores: Mapping[Axis, Array],
    limits: Sequence[Limit],
    align: int,
    floor: float,
) -> Kept:
    """The best-scored share of each kind of group, the same for all kinds; the next best get what is left.

    Raises:
        PruneoptError: not even the floors of all groups are within the limits.
    """
    places = _places(groups, kinds, scores)
    line = Line(
        lambda part: {g: float((places[g] < part).sum()) for g in groups},
        lambda group, kept: float(places[group][kept]) if kept < group.size else 1.0,
    )
    return furthest(groups, line, limits, align, floor)


def _places(
    groups: Sequence[Group], kinds: Mapping[Group, str], scores: Mapping[Axis, Array]
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
