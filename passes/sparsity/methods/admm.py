"""ADMM (Boza 2024, "Fast and effective weight update for pruned large language models"): all features make up for all.

Minimise |Z^T (W - W0)|^2 subject to zeros, by alternating a ridge regression, whose matrix is inverted once, and a
projection onto the zeros. The mask follows the regression's own weights while the share of zeros rises; the last
rounds settle the weights for a mask that stays. Features are scaled to unit norm first, so that the projection's
magnitudes are errors.
"""

from __future__ import annotations

import numpy as np

from pruneopt.arrays import Array
from pruneopt.passes.sparsity.gram import Gram, needed
from pruneopt.passes.sparsity.patterns import Pattern

RISING, SETTLING = 30, 10  # rounds


def admm(weight: Array, gram: Gram | None, pattern: Pattern, sparsity: float) -> Array:
    """The weight on the units that are worth most once all others are refitted, shape [outputs, features]."""
    known = needed(gram, "admm")
    start = (weight * known.scale).astype(np.float32)
    target = start @ known.scaled
    free, dual = start, np.zeros_like(start)
    zeros = start
    for step in range(RISING + SETTLING):
        if step < RISING:
            share = sparsity * (1 - (1 - (step + 1) / RISING) ** 3)
            keep = pattern.keep(np.square(free + dual), share)
        zeros = (free + dual) * keep
        dual = dual + free - zeros
        free = (target + zeros - dual) @ known.regression  # the distance between both weighs one
    return np.asarray((zeros / known.scale).astype(weight.dtype))
