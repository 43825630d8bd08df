"""Magnitude: small weights go (Han et al. 2015). Needs no data; wrong where a few features are huge."""

from __future__ import annotations

import numpy as np

from pruneopt.arrays import Array
from pruneopt.passes.sparsity.gram import Gram
from pruneopt.passes.sparsity.patterns import Pattern


def magnitude(weight: Array, gram: Gram | None, pattern: Pattern, sparsity: float) -> Array:
    """The weight without its smallest units, shape [outputs, features]."""
    found: Array = weight * pattern.keep(np.square(weight), sparsity)
    return found
