"""Least squares through an activation: what it flattens need not be right.

|f(y) - f(z)|^2 over weights of z = W x + b, with f and the wanted y given: a step goes to z + f(y) - f(z), where
f hides nothing to y itself, and where it hides both nowhere (He et al. 2017 weigh a ReLU's flat side like this).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pruneopt.arrays import Array
from pruneopt.passes.statistics.leastsquares import Refit, refit
from pruneopt.passes.statistics.moments import Moments

ROUNDS = 3
MOST = 1 << 28  # bytes of rows that are held


@dataclass(frozen=True)
class Sample:
    """Rows of a layer's input in one batch, and what should come of them.

    Attributes:
        rows: shape [groups, count, features].
        skip: what is added to the layer's output before the activation, if anything; shape [groups, count, outputs].
        wanted: what the activation should make of the sum, of the same shape.
        held: judged by, not fitted to.
    """

    rows: Array
    skip: Array | None
    wanted: Array
    held: bool

    def thinned(self, batches: int) -> Sample:
        """Every so manieth row, so that those of so many batches take `MOST` bytes at most."""
        step = -(-self.rows.nbytes * batches // MOST)
        if step <= 1:
            return self
        rows, wanted = (np.ascontiguousarray(x[:, ::step]) for x in (self.rows, self.wanted))
        skip = None if self.skip is None else np.ascontiguousarray(self.skip[:, ::step])
        return Sample(rows, skip, wanted, self.held)

    def missing(self, found: Refit, activation: Callable[[Array], Array]) -> Array:
        """What lacks behind the activation, shape [groups, count, outputs]."""
        made = found.outputs(self.rows)
        return np.asarray(self.wanted - activation(made if self.skip is None else made + self.skip))


@dataclass(frozen=True)
class Through:
    """Improves a refit by what an activation makes of it.

    Attributes:
        samples: of the layer's input.
        activation: elementwise.
        fit: moments of the rows that are not held out.
        matters: which outputs are judged; shape [groups * outputs].
    """

    samples: Sequence[Sample]
    activation: Callable[[Array], Array]
    fit: Moments
    matters: Array

    def improved(self, found: Refit, added: Array, keep: Array) -> Refit:
        """The refit after some steps with the ridge `added`, as long as held-out rows gain by them."""
        mean, covariance = self.fit.mean, self.fit.covariance
        error, missing, offset = self._look(found, mean)
        for _ in range(ROUNDS):
            cross = found.weight @ covariance + missing
            weight = refit(found.weight, covariance, cross, added, keep)
            moved = offset - np.einsum("gof,gf->go", weight - found.weight, mean)
            other = Refit(weight, found.bias + moved.reshape(-1))
            before = error
            error, missing, offset = self._look(other, mean)
            if error >= before:
                return found
            found = other
        return found

    def _look(self, found: Refit, mean: Array) -> tuple[float, Array, Array]:
        """(squared error of held-out rows, of the others the covariance of what lacks and rows, mean of what lacks)."""
        error, count = 0.0, 0
        cross, offset = np.zeros(found.weight.shape), np.zeros(found.weight.shape[:2])
        for each in self.samples:
            missing = each.missing(found, self.activation)
            if each.held:
                outputs = missing.swapaxes(0, 1).reshape(missing.shape[1], -1)
                error += float(np.square(outputs[:, self.matters], dtype=np.float64).sum())
            else:
                cross += missing.swapaxes(1, 2) @ (each.rows - mean[:, None].astype(np.float32))
                offset += missing.sum(1, dtype=np.float64)
                count += missing.shape[1]
        return error, cross / max(count, 1), offset / max(count, 1)
