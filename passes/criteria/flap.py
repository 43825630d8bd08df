"""Fluctuation (FLAP, An et al. 2024): what the mean, put into a bias, does not make up for."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pruneopt.analysis.groups import Group
from pruneopt.passes.criteria.magnitude import magnitude_l2
from pruneopt.passes.statistics.evidence import Evidence


def flap(group: Group, evidence: Evidence) -> npt.NDArray[np.float64]:
    """sum of W^2 Var(x) over the consumers' weights, as shares of each consumer's whole. Shape [size]."""
    views = evidence.views(group)
    total = np.zeros(group.size)
    for view in views:
        each = (np.square(view.weight).sum(1) * np.diagonal(view.moments.covariance, axis1=1, axis2=2)).sum(0)
        total += view.per_entry(each, group.size) / (each.sum() or 1.0)
    return total if views else magnitude_l2(group)
