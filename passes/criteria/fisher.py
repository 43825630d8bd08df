"""Fisher information of gates (Theis et al. 2018, Liu et al. 2021): what the loss changes by in second order."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pruneopt.analysis.groups import Group
from pruneopt.passes.criteria.gradient import gates
from pruneopt.passes.criteria.magnitude import magnitude_l2
from pruneopt.passes.statistics.evidence import Evidence


def fisher(group: Group, evidence: Evidence) -> npt.NDArray[np.float64]:
    """Mean over samples of (sum w g)^2, the sum over all that goes with the entry. Shape [size]."""
    found = gates(group, evidence.gradients())
    return magnitude_l2(group) if found is None else np.asarray(np.square(found).mean(0))
