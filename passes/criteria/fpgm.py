"""Geometric median (FPGM, He et al. 2019): filters close to all others can be replaced by them and go first."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pruneopt.analysis.cost import is_weight
from pruneopt.analysis.groups import Group, Touch
from pruneopt.analysis.masks import pull_back
from pruneopt.arrays import Array
from pruneopt.model import values
from pruneopt.passes.criteria.magnitude import magnitude_l2
from pruneopt.passes.statistics.evidence import Evidence


def fpgm(group: Group, evidence: Evidence | None = None) -> npt.NDArray[np.float64]:
    """Summed distance of each entry's filters to all others, over the weights that make the group. Shape [size]."""
    total = np.zeros(group.size)
    for touch in group.touches:
        if touch.use.weight and is_weight(touch.use) and _makes(touch):
            distance = _spread(_rows(touch))
            total += pull_back(touch.axis, group.atom, distance) / (distance.mean() or 1.0)
    return total if total.any() else magnitude_l2(group)


def _makes(touch: Touch) -> bool:
    """Whether the dimension is one of outputs, not one that is summed over."""
    node, weight = touch.use.node, touch.use.constant
    outputs = 0 if node.op == "Conv" or node.attrs.get("transB") else len(weight.shape) - 1
    return bool(touch.dim == outputs)


def _rows(touch: Touch) -> Array:
    weight = values(touch.use.constant).astype(np.float64)
    return np.moveaxis(weight, touch.dim, 0).reshape(weight.shape[touch.dim], -1)


def _spread(rows: Array) -> Array:
    """Sum over all rows of the distance to each. Shape [rows]."""
    square = np.square(rows).sum(1)
    distance = np.sqrt(np.maximum(square[:, None] + square - 2 * rows @ rows.T, 0))
    return np.asarray(distance.sum(1))
