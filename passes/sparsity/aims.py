"""What a sparse layer should make: the original's tensor where it writes, so that it mends what is before it.

A layer that writes to a residual stream, or a convolution, is fitted to T = (the original's sum) - (the skip that the
sparse model now has). Least squares gives the weight to start from, W + E[(T - W z) z^T] (E[z z^T] + L)^-1; what a
method makes of it is measured by the same second moments. Held-out rows choose L, or to start from W.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from pruneopt.analysis.infer import Analysis
from pruneopt.arrays import Array, Feeds
from pruneopt.passes.context import Context
from pruneopt.passes.proof import comparison_points
from pruneopt.passes.statistics.consumers import Consumer, find_consumers
from pruneopt.passes.statistics.junctions import Junction, junctions_of
from pruneopt.passes.statistics.moments import Moments
from pruneopt.passes.statistics.stream import Stream

RIDGES = (0.03, 0.3, 3.0)  # shares of the features' variances, of which held-out rows choose
FLOOR = 1e-4  # share of the mean variance that a feature without variance is given
HELD = 5  # every so manieth batch
MOST_OUTPUTS = 4096  # of a layer whose targets are the model's outputs


class Aims:
    """The original model, run beside the sparse one as far as it is needed.

    Args:
        analysis: of the original.
        layers: those that become sparse, in graph order.
        context: of the run.
        batches: of calibration data.
    """

    def __init__(
        self, analysis: Analysis, layers: Iterable[Consumer], context: Context, batches: Sequence[Feeds]
    ) -> None:
        found = junctions_of(layers, analysis)
        self.waiting = {c.name: c for c in find_consumers(analysis, columns=True) if c.name in found}
        ends = set(comparison_points(analysis.model.graph))
        self.junctions = {
            name: j for name, j in found.items() if self._is_target(self.waiting[name], j, ends)
        }
        self.dense: Stream | None = None
        if self.junctions and len(batches) >= HELD:
            later = [j.total for j in self.junctions.values()]
            self.dense = Stream(analysis.model, context, batches, later)

    @staticmethod
    def _is_target(consumer: Consumer, junction: Junction, ends: Collection[str]) -> bool:
        """Whether a layer writes to a stream, is a convolution, or makes an output of the model that is not too wide.

        What is inside a sub-layer is better left to itself: its own output cannot mend what its reader needs.
        """
        last = junction.total in ends and prod(consumer.outputs) <= MOST_OUTPUTS
        return junction.skip is not None or consumer.node.op == "Conv" or last

    def junction(self, consumer: Consumer, stream: Stream) -> Junction | None:
        """Where a layer writes, if it has a target there and its skip does not wait for it or later layers."""
        found = self.junctions.get(consumer.name)
        if self.dense is None or found is None:
            return None
        if found.skip is not None:
            ahead = {t.name for n in stream.needed([found.skip]) for t in n.outputs}
            if not ahead.isdisjoint(self.waiting):
                return None
        return found

    def totals(self, junction: Junction) -> Iterator[Array]:
        """What the original makes there, batch by batch."""
        assert self.dense is not None
        for (total,) in self.dense.reach(junction.total):
            yield total

    def done(self, consumer: Consumer) -> None:
        """The layer is sparse now."""
        self.waiting.pop(consumer.name, None)
        junction = self.junctions.get(consumer.name)
        if self.dense is not None and junction is not None:
            self.dense.later[junction.total] -= 1


@dataclass(frozen=True)
class Targets:
    """Moments of features and targets, to fit on and held out."""

    fit: Moments
    held: Moments

    @property
    def mean(self) -> Array:
        """Mean target, shape [groups, outputs]."""
        return pooled(self.fit, self.held).target_mean

    def start(self, weight: Array, centred: bool) -> Array:
        """The weight that comes closest to the targets, by held-out rows; shape [groups, outputs, features]."""
        fit, held = (_products(m, centred) for m in (self.fit, self.held))
        tried = [weight, *(_towards(weight, *fit, ridge) for ridge in RIDGES)]
        errors = [_error(w, *held) for w in tried]
        best = int(np.argmin(errors))
        if best == 0:
            return weight
        return _towards(weight, *_products(pooled(self.fit, self.held), centred), RIDGES[best - 1])


@dataclass(frozen=True)
class Pool:
    """Moments of two sets of rows together, named as in `Moments`."""

    mean: Array
    target_mean: Array
    covariance: Array
    cross: Array


def pooled(a: Moments, b: Moments) -> Pool:
    """The moments of all rows of both."""
    share = b.count / (a.count + b.count)
    move, shift = b.mean - a.mean, b.target_mean - a.target_mean
    between = share * (1 - share)
    return Pool(
        a.mean + share * move,
        a.target_mean + share * shift,
        (1 - share) * a.covariance + share * b.covariance + between * move[:, :, None] * move[:, None],
        (1 - share) * a.cross + share * b.cross + between * shift[:, :, None] * move[:, None],
    )


def _products(known: Moments | Pool, centred: bool) -> tuple[Array, Array]:
    """(E[z z^T], E[t z^T]), around the means where a bias takes them over."""
    if centred:
        return known.covariance, known.cross
    z, t = known.mean, known.target_mean
    return known.covariance + z[:, :, None] * z[:, None], known.cross + t[:, :, None] * z[:, None]


def _towards(weight: Array, inner: Array, cross: Array, ridge: float) -> Array:
    diagonal = np.diagonal(inner, axis1=1, axis2=2)
    added = ridge * (diagonal + FLOOR * (diagonal.mean(1, keepdims=True) + np.finfo(np.float32).tiny))
    missing = cross - weight @ inner
    damped = inner + np.eye(inner.shape[1]) * added[:, None]
    found: Array = weight + np.linalg.solve(damped, missing.transpose(0, 2, 1)).transpose(0, 2, 1)
    return found


def _error(weight: Array, inner: Array, cross: Array) -> float:
    """Mean squared distance to the targets, up to a constant."""
    return float(np.einsum("gof,gof->", weight, weight @ inner - 2 * cross))
