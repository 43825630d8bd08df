"""What a method may know of the features that a weight is applied to."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pruneopt.arrays import Array
from pruneopt.errors import UsageError
from pruneopt.passes.statistics.moments import LEAST

DAMPING = 0.01  # share of the variances that is added to the diagonal (Frantar & Alistarh 2023)
FLOOR = 1e-4  # share of the mean variance that a feature without variance is given


@dataclass(frozen=True, eq=False)
class Gram:
    """Second moments of features z.

    Attributes:
        matrix: what a change of the weights is measured by, shape [features, features]: E[z z^T], or the
            covariance where a bias takes over the mean.
        squares: E[z_j^2], shape [features].
    """

    matrix: Array
    squares: Array

    @cached_property
    def damped(self) -> Array:
        """The matrix plus a little on its diagonal, float64."""
        diagonal = np.diagonal(self.matrix)
        mean = float(diagonal.mean())
        mean = mean if mean > LEAST else 1.0
        return np.asarray(self.matrix + np.diag(DAMPING * diagonal + FLOOR * mean))

    @cached_property
    def root(self) -> Array:
        """U, upper triangular, with U^T U the inverse of the damped matrix; float32, shape [features, features].

        H = R R^T with R upper triangular (Cholesky from the end), U = R^-1.
        """
        lower = np.linalg.cholesky(self.damped[::-1, ::-1])
        found: Array = np.triu(np.linalg.inv(lower[::-1, ::-1]))
        return found.astype(np.float32)

    @cached_property
    def scale(self) -> Array:
        """Root of the damped diagonal, shape [features]."""
        return np.asarray(np.sqrt(np.diagonal(self.damped)))

    @cached_property
    def scaled(self) -> Array:
        """The damped matrix of features of norm one, float32."""
        return np.asarray(self.damped / self.scale / self.scale[:, None], np.float32)

    @cached_property
    def regression(self) -> Array:
        """The inverse of `scaled` plus the identity, float32."""
        return np.linalg.inv(self.scaled + np.eye(len(self.scale))).astype(np.float32)

    @cached_property
    def freedom(self) -> Array:
        """The diagonal of the inverse of the damped matrix, shape [features]: w^2 / freedom is what losing w costs."""
        return np.asarray(np.square(self.root.astype(np.float64)).sum(0))

    def error(self, change: Array) -> float:
        """Squared error of the outputs, summed, when the weight changes so; shape [outputs, features]."""
        return float(np.einsum("of,of->", change @ self.matrix.astype(change.dtype), change))


def needed(gram: Gram | None, method: str) -> Gram:
    """The second moments. Raises UsageError where there is no calibration data."""
    if gram is None:
        raise UsageError(f"method {method} looks at activations; give --calib, or choose ria")
    return gram
