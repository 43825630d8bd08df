"""Squared gradient-weight sums (NViT, Yang et al. 2023): (sum w g)^2, g the gradient of a batch's mean loss.

The paper subtracts eta (latency with the entry - latency without): one number for all entries of a group. It decides
between groups, not inside one; how many entries each group keeps is the plan's, which latency budgets reach.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pruneopt.analysis.groups import Group
from pruneopt.passes.criteria.gradient import gates
from pruneopt.passes.criteria.magnitude import magnitude_l2
from pruneopt.passes.statistics.evidence import Evidence


def nvit(group: Group, evidence: Evidence) -> npt.NDArray[np.float64]:
    """Sum over batches of (mean over the batch's samples of sum w g)^2. Shape [size]."""
    gradients = evidence.gradients()
    found = gates(group, gradients)
    if found is None:
        return magnitude_l2(group)
    total = np.zeros(group.size)
    for batch in np.unique(gradients.batches):
        total += np.square(found[gradients.batches == batch].mean(0))
    return total
