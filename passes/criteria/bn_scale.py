"""BatchNorm scale (network slimming, Liu et al. 2017): channels that a norm scales down go first."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pruneopt.analysis.groups import Group
from pruneopt.analysis.masks import pull_back
from pruneopt.model import values
from pruneopt.passes.criteria.magnitude import magnitude_l2
from pruneopt.passes.statistics.evidence import Evidence

NORMS = {"BatchNormalization", "InstanceNormalization", "GroupNormalization", "LayerNormalization"}


def bn_scale(group: Group, evidence: Evidence | None = None) -> npt.NDArray[np.float64]:
    """Summed magnitude of the norms' scales; weight magnitude where the group has none. Shape [size]."""
    total = np.zeros(group.size)
    for touch in group.touches:
        if touch.use.node.op in NORMS and touch.use.slot == 1:
            scale = np.abs(values(touch.use.constant).astype(np.float64)).reshape(-1)
            total += pull_back(touch.axis, group.atom, scale)
    return total if total.any() else magnitude_l2(group)
