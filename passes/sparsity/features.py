"""What is known of the features that weights are applied to, and of what the layers should make of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pruneopt.arrays import Array
from pruneopt.passes.sparsity.aims import HELD, Aims, Targets, pooled
from pruneopt.passes.sparsity.gram import Gram
from pruneopt.passes.sparsity.patterns import Pattern
from pruneopt.passes.statistics.consumers import Consumer
from pruneopt.passes.statistics.junctions import Junction
from pruneopt.passes.statistics.moments import Moments
from pruneopt.passes.statistics.rows import Sampler
from pruneopt.passes.statistics.stream import Stream

WIDEST = 8192  # features whose second moments are held at once: half a gigabyte, a few times over


@dataclass(frozen=True)
class Rows:
    """What is known of the features of layers that read the same; worked out once for all of them.

    Attributes:
        mean: of each feature, shape [groups, features]; a very wide layer is taken in pieces, as if they were groups.
        covariance: shape [groups, features, features].
        targets: of one layer, where it has some.
    """

    mean: Array
    covariance: Array
    targets: Targets | None = None

    @cached_property
    def centred(self) -> list[Gram]:
        """Second moments around the mean, per group of channels: what counts where a bias takes over means."""
        return self._grams(self.covariance)

    @cached_property
    def whole(self) -> list[Gram]:
        """Second moments, per group of channels."""
        return self._grams(self.covariance + self.mean[:, :, None] * self.mean[:, None])

    @property
    def squares(self) -> Array:
        """E[z^2] of each feature, shape [groups, features]."""
        return np.asarray(
            np.maximum(np.diagonal(self.covariance, axis1=1, axis2=2) + np.square(self.mean), 0)
        )

    def _grams(self, matrices: Array) -> list[Gram]:
        return [Gram(m, s) for m, s in zip(matrices, self.squares, strict=True)]


def pieces(consumer: Consumer, pattern: Pattern) -> int:
    """In how many equal parts of whole units features are taken, so that their second moments fit memory."""
    features = consumer.features
    least = -(-features // WIDEST)
    fitting = (
        n for n in range(least, features + 1) if features % n == 0 and features // n % pattern.span == 0
    )
    return 1 if consumer.groups > 1 else next(fitting, 1)


def in_pieces(stack: Array, count: int) -> Array:
    """The last axis of a stack cut, shape [groups, rows, features] -> [count, rows, groups * features / count]."""
    if count == len(stack):
        return stack
    rows = stack.shape[1]
    return np.ascontiguousarray(stack[0].reshape(rows, count, -1).transpose(1, 0, 2))


def joined(stack: Array, groups: int) -> Array:
    """Back from `in_pieces`."""
    return stack if groups == len(stack) else np.concatenate(list(stack), axis=1)[None]


def measure(consumer: Consumer, stream: Stream, pattern: Pattern, samples: int, seed: int) -> Rows:
    """The consumer's features over all batches."""
    count = consumer.groups * pieces(consumer, pattern)
    sampler = Sampler(consumer, max(samples, 8 * consumer.features // count), stream.valid, seed)
    moments = Moments()
    for i, (data,) in enumerate(stream.reach(consumer.data)):
        moments.add(in_pieces(sampler.rows(i, data), count))
    return Rows(moments.mean, moments.covariance)


def aimed(
    consumer: Consumer, stream: Stream, junction: Junction, aims: Aims, samples: int, seed: int
) -> Rows:
    """The consumer's features and targets over all batches."""
    sampler = Sampler(consumer, max(samples, 8 * consumer.features), stream.valid, seed)
    fit, held = Moments(), Moments()
    skip = [] if junction.skip is None else [junction.skip]
    both = zip(stream.reach(consumer.data, *skip), aims.totals(junction), strict=True)
    for i, ((data, *skips), total) in enumerate(both):
        wanted = sampler.targets(i, total)
        for each in skips:
            wanted = wanted - sampler.targets(i, each)
        (held if i % HELD == HELD - 1 else fit).add(sampler.rows(i, data), wanted)
    known = pooled(fit, held)
    return Rows(known.mean, known.covariance, Targets(fit, held))
