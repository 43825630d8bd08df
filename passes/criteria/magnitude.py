"""Group magnitude: the norm of everything that goes with an entry (Li et al. 2017, Fang et al. 2023)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pruneopt.analysis.cost import is_weight
from pruneopt.analysis.groups import Group, Touch
from pruneopt.analysis.masks import pull_back
from pruneopt.model import values
from pruneopt.passes.statistics.evidence import Evidence

Scores = npt.NDArray[np.float64]


def magnitude_l2(group: Group, evidence: Evidence | None = None) -> Scores:
    """sqrt of the summed squares over all weights of the group, each weight scaled to mean 1. Shape [size]."""
    return _magnitude(group, 2)


def magnitude_l1(group: Group, evidence: Evidence | None = None) -> Scores:
    """Summed magnitudes over all weights of the group, each weight scaled to mean 1. Shape [size]."""
    return _magnitude(group, 1)


def _magnitude(group: Group, power: int) -> Scores:
    total = np.zeros(group.size)
    for touch in group.touches:
        if touch.use.weight and is_weight(touch.use):
            score = pull_back(touch.axis, group.atom, _along(touch, power))
            total += score / (score.mean() or 1.0)
    return np.asarray(total ** (1 / power))


def _along(touch: Touch, power: int) -> Scores:
    """Sum of |w|^power over all dimensions but the touched one. Shape [size of that dimension]."""
    weight = values(touch.use.constant).astype(np.float32, copy=False)
    if power == 2:  # without a copy of the weight
        letters = "abcdefgh"[: weight.ndim]
        squares = np.einsum(f"{letters},{letters}->{letters[touch.dim]}", weight, weight)
        return np.asarray(squares, np.float64)
    others = tuple(d for d in range(weight.ndim) if d != touch.dim)
    return np.asarray(np.abs(weight).sum(axis=others, dtype=np.float64))
