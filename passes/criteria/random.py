"""Random scores: the floor that any criterion has to beat."""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt

from pruneopt.analysis.groups import Group


def random_scores(group: Group, seed: int = 0) -> npt.NDArray[np.float64]:
    """Uniform in [0, 1), by seed and group name. Shape [size]."""
    return np.random.default_rng([seed, zlib.crc32(group.name.encode())]).random(group.size)
