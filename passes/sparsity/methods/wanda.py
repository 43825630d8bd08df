"""Wanda (Sun et al. 2024): |W_ij| times the norm of feature j; each output loses the same number of weights."""

from __future__ import annotations

import numpy as np

from pruneopt.arrays import Array
from pruneopt.passes.sparsity.gram import Gram, needed
from pruneopt.passes.sparsity.patterns import Pattern


def wanda(weight: Array, gram: Gram | None, pattern: Pattern, sparsity: float) -> Array:
    """The weight without the units that carry least of their outputs, shape [outputs, features].

    Squares of |W_ij| norm_j are summed over a unit: the squared error that its removal makes, were all
    features independent.
    """
    scores = np.square(weight) * needed(gram, "wanda").squares
    found: Array = weight * pattern.keep(scores, sparsity, by_row=True)
    return found
