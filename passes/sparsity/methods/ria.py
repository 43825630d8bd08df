"""RIA (Zhang et al. 2024): a weight's shares of its row and column, times the root of its feature's norm."""

from __future__ import annotations

import numpy as np

from pruneopt.arrays import Array
from pruneopt.passes.sparsity.gram import Gram
from pruneopt.passes.sparsity.patterns import Pattern

POWER = 0.5  # of the norm


def ria(weight: Array, gram: Gram | None, pattern: Pattern, sparsity: float) -> Array:
    """The weight without its least important units, shape [outputs, features].

    Without data the norms are left out.
    """
    found: Array = weight * pattern.keep(
        np.square(importance(weight, None if gram is None else gram.squares)), sparsity
    )
    return found


def importance(weight: Array, squares: Array | None) -> Array:
    """S_ij = (|W_ij| / sum_i |W_ij| + |W_ij| / sum_j |W_ij|) norm_j^a, shape [outputs, features].

    `squares` are those of the norms, E[z_j^2], shape [features].
    """
    size = np.abs(weight)
    tiny = np.finfo(np.float32).tiny
    share = size / np.maximum(size.sum(0, keepdims=True), tiny) + size / np.maximum(
        size.sum(1, keepdims=True), tiny
    )
    found: Array = share if squares is None else share * squares ** (POWER / 2)
    return found
