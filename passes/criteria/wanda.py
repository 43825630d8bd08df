"""Activation norm (Wanda, Sun et al. 2024, summed over outputs): weight times size of what it is applied to."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pruneopt.analysis.groups import Group
from pruneopt.passes.criteria.magnitude import magnitude_l2
from pruneopt.passes.statistics.evidence import Evidence


def wanda(group: Group, evidence: Evidence) -> npt.NDArray[np.float64]:
    """sum of W^2 E[x^2] over the consumers' weights, as shares of each consumer's whole. Shape [size]."""
    views = evidence.views(group)
    total = np.zeros(group.size)
    for view in views:
        moments = view.moments
        power = np.diagonal(moments.covariance, axis1=1, axis2=2) + np.square(moments.mean)
        each = (np.square(view.weight).sum(1) * power).sum(0)
        total += view.per_entry(each, group.size) / (each.sum() or 1.0)
    return total if views else magnitude_l2(group)
