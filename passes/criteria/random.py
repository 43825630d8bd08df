"""Random scores: the floor that any criterion has to beat."""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt

from pruneopt.analysis.groups import Group
from pruneopt.passes.statistics.evidence import Evidence


def random_scores(group: Group, evidence: Evidence | None = None) -> npt.NDArray[np.float64]:
    """Uniform in [0, 1), by seed and group name. Shape [size]."""
    return np.random.default_rng([evidence.seed if evidence else 0, zlib.crc32(group.name.encode())]).random(
        group.size
    )
