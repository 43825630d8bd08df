"""Least squares with a ridge towards the weights that are there: what is kept takes over from what goes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pruneopt.arrays import Array

FLOOR = 1e-4  # share of the mean variance that a feature without variance is given


@dataclass(frozen=True)
class Refit:
    """New values of a layer at full size: weight [groups, outputs, features] and bias [groups * outputs]."""

    weight: Array
    bias: Array

    def outputs(self, rows: Array) -> Array:
        """Of rows [groups, count, features], in float32; shape [groups, count, outputs]."""
        made: Array = rows @ self.weight.astype(np.float32).swapaxes(1, 2)
        made += self.bias.astype(np.float32).reshape(len(made), 1, -1)
        return made


def ridge(covariance: Array, strength: float, own: bool) -> Array:
    """The diagonal to add to a covariance, shape [groups, features].

    Args:
        covariance: shape [groups, features, features].
        strength: as a share of the variances.
        own: in proportion to each feature's own variance (a few huge ones would drown the others), not to the mean.
    """
    diagonal = np.diagonal(covariance, axis1=1, axis2=2)
    mean = diagonal.mean(axis=1, keepdims=True)
    mean = np.where(mean > 0, mean, 1.0)
    found: Array = strength * (diagonal + FLOOR * mean if own else np.broadcast_to(mean, diagonal.shape))
    return found


def refit(weight: Array, covariance: Array, cross: Array, added: Array, keep: Array) -> Array:
    """The weight on the kept features whose output is closest to the targets.

    W'_S = (B + W L)_{:,S} ((A + L)_SS)^-1

    Args:
        weight: W, shape [groups, outputs, features].
        covariance: A of the features, shape [groups, features, features].
        cross: B of targets and features, shape [groups, outputs, features].
        added: L, a diagonal, shape [groups, features].
        keep: boolean, shape [features].

    Returns:
        shape [groups, outputs, features], zero where nothing is kept.
    """
    found = np.zeros_like(weight)
    kept = np.flatnonzero(keep)
    inner = covariance[:, kept[:, None], kept]
    each = np.arange(len(kept))
    inner[:, each, each] += added[:, kept]
    wanted = cross[:, :, kept] + weight[:, :, kept] * added[:, None, kept]
    found[:, :, kept] = np.linalg.solve(inner, wanted.swapaxes(1, 2)).swapaxes(1, 2)
    return found
