"""Plans widths from calibration data: error curves, exchange rates, allocation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pruneopt.analysis.groups import Group
from pruneopt.analysis.observe import Feeds
from pruneopt.passes.base import Context
from pruneopt.passes.criteria.magnitude import magnitude_l2
from pruneopt.passes.planning.allocate import Choice, Kept, allocate, choice
from pruneopt.passes.planning.curves import Curve, curve_of
from pruneopt.passes.planning.probe import rates
from pruneopt.passes.planning.tally import Limit
from pruneopt.passes.statistics.evidence import Evidence

Array = npt.NDArray[Any]


def plan(
    groups: Sequence[Group],
    limits: Sequence[Limit],
    evidence: Evidence,
    context: Context,
    batches: Sequence[Feeds],
    align: int,
    floor: float,
) -> Kept:
    """Sizes of all groups within the limits, of least damage at the model's outputs as far as it was measured."""
    curves = {g: c for g in groups if (c := curve_of(g, evidence)) is not None}
    if not evidence.rates:
        context.progress(f"probe {len(curves)} groups")
        evidence.rates |= rates(curves, evidence, context, batches)
    return allocate(_choices(groups, curves, evidence.rates, align, floor), limits)


def _choices(
    groups: Sequence[Group],
    curves: Mapping[Group, Curve],
    worth: Mapping[Group, float],
    align: int,
    floor: float,
) -> list[Choice]:
    known = {g: c.error * worth[g] for g, c in curves.items()}
    typical = float(np.median([d[-1] for d in known.values()])) if known else 1.0
    return [choice(g, known.get(g, _guess(g) * typical), align, floor) for g in groups]


def _guess(group: Group) -> Array:
    """For a group that no data was seen of: the share of its squared magnitude that goes, smallest first."""
    squares = np.sort(np.square(magnitude_l2(group)))
    whole = float(squares.sum()) or 1.0
    return np.concatenate([[0.0], np.cumsum(squares) / whole])
