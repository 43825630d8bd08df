"""LLM-Pruner's group importances (Ma et al. 2023): g the mean gradient, F the mean squared gradient of a sample.

Scores of coupled weights are added up, the paper's default.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pruneopt.analysis.groups import Group
from pruneopt.analysis.masks import pull_back
from pruneopt.passes.criteria.gradient import elements, touched
from pruneopt.passes.criteria.magnitude import magnitude_l2
from pruneopt.passes.statistics.evidence import Evidence

Scores = npt.NDArray[np.float64]


def vectorize(group: Group, evidence: Evidence) -> Scores:
    """Sum over rows of |sum of w g in the row|, a row being one index of a weight's dimension. Shape [size]."""
    total, seen = np.zeros(group.size), False
    for touch, sums in touched(group, evidence.gradients()):
        rows = np.abs(np.mean(sums.products[touch.dim], axis=0))
        total += pull_back(touch.axis, group.atom, rows)
        seen = True
    return total if seen else magnitude_l2(group)


def param_first(group: Group, evidence: Evidence) -> Scores:
    """Sum of |w g|. Shape [size]."""
    return elements(group, evidence, lambda s: np.abs(s.weight * s.mean))


def param_second(group: Group, evidence: Evidence) -> Scores:
    """Sum of |w^2 F|. Shape [size]."""
    return elements(group, evidence, lambda s: np.square(s.weight) * s.square)


def param_mix(group: Group, evidence: Evidence) -> Scores:
    """Sum of |w g - w^2 F / 2|. Shape [size]."""
    return elements(group, evidence, lambda s: np.abs(s.weight * s.mean - np.square(s.weight) * s.square / 2))
