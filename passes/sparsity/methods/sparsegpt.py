"""SparseGPT (Frantar & Alistarh 2023): features in order, those still to come make up for every weight that goes.

With H = E[z z^T] and U^T U = H^-1, U upper triangular, taking weight w_j out costs (w_j / U_jj)^2 when the later
features are refitted, and the refit is w_i -= (w_j / U_jj) U_ji. A unit of several outputs costs the sum, as all share
H; a unit of several features b costs |w_b U_bb^-1|^2 (optimal brain surgeon of the group).
"""

from __future__ import annotations

import numpy as np

from pruneopt.arrays import Array
from pruneopt.passes.sparsity.gram import Gram, needed
from pruneopt.passes.sparsity.patterns import Pattern

BLOCK = 128  # features, about, whose units are chosen together


def sparsegpt(weight: Array, gram: Gram | None, pattern: Pattern, sparsity: float) -> Array:
    """The weight with units taken out and the others refitted, shape [outputs, features].

    Groups of `n:m` are decided on when the sweep reaches them, all other units at the start of their block. How
    many of a block go (the paper: the same share of each) follows from a first look at all costs together.
    """
    root = needed(gram, "sparsegpt").root
    left = weight.T.astype(np.float32)  # [features, outputs]: a feature is contiguous
    first = pattern.keep(_costs(left, root, pattern.features).T, sparsity)
    step = max(1, BLOCK // pattern.span) * pattern.span
    for start in range(0, len(left), step):
        own = slice(start, min(start + step, len(left)))
        errors = _sweep(left[own], root[own, own], pattern, pattern.zero_units(first[:, own]))
        left[own.stop :] -= root[own, own.stop :].T @ errors
    return np.ascontiguousarray(left.T).astype(weight.dtype)


def _sweep(left: Array, root: Array, pattern: Pattern, sparsity: float) -> Array:
    """Take units out of a block of features, in place; returns w_j / U_jj of what went, shape [features, outputs]."""
    errors = np.zeros_like(left)
    lot = pattern.span if pattern.group else len(left)
    for at in range(0, len(left), lot):
        own = slice(at, min(at + lot, len(left)))
        gone = ~pattern.keep(_costs(left[own], root[own, own], pattern.features).T, sparsity).T
        for j in range(own.start, own.stop):
            errors[j] = left[j] * gone[j - at] / root[j, j]
            left[j + 1 :] -= root[j, j + 1 :, None] * errors[j]
            left[j][gone[j - at]] = 0
    return errors


def _costs(left: Array, root: Array, width: int) -> Array:
    """Squares whose sum over a unit is the cost of taking it out, shape [features, outputs]."""
    if width == 1:
        return np.asarray(np.square(left / np.diagonal(root)[:, None]))
    pieces = [slice(i, i + width) for i in range(0, len(left), width)]
    return np.concatenate([np.square(np.linalg.solve(root[p, p].T, left[p])) for p in pieces])
