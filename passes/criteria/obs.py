"""Structured optimal brain surgeon: entries whose consumers, refitted, change least go first."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pruneopt.analysis.groups import Group
from pruneopt.passes.criteria.magnitude import magnitude_l2
from pruneopt.passes.planning.curves import curve_of
from pruneopt.passes.statistics.evidence import Evidence


def obs(group: Group, evidence: Evidence) -> npt.NDArray[np.float64]:
    """The place of each entry in the order of removal; by magnitude where no consumer can be refitted. Shape [size]."""
    curve = curve_of(group, evidence)
    if curve is None:
        return magnitude_l2(group)
    scores = np.empty(group.size)
    scores[curve.order] = np.arange(group.size)
    return scores
