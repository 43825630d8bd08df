"""Refits the layers of a pruned model in order, each on the inputs that the layers before it now make.

The pruned model runs as the masked original: a removed feature is there, unused, so that a layer's own
output with all features is the target of its refit without them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from math import prod

import numpy as np

from pruneopt.analysis.axes import atoms
from pruneopt.analysis.masks import mask_of, touched
from pruneopt.arrays import Array, Feeds
from pruneopt.model import makers
from pruneopt.passes.aim import Aim, Targets
from pruneopt.passes.context import Context
from pruneopt.passes.rewriting.masked import Masked
from pruneopt.passes.rewriting.weights import bias_of, set_bias, set_weight
from pruneopt.passes.statistics.consumers import Consumer, find_consumers
from pruneopt.passes.statistics.junctions import Junction, junctions_of
from pruneopt.passes.statistics.leastsquares import Refit, refit, ridge
from pruneopt.passes.statistics.moments import Moments
from pruneopt.passes.statistics.rows import Sampler, rows_for
from pruneopt.passes.statistics.stream import Stream
from pruneopt.passes.statistics.through import Sample, Through

FACTORS = (0.1, 1.0, 4.0)  # of the ridge, of which held-out rows choose
SQUASHING = ("Softmax", "LogSoftmax", "Sigmoid")
MOST_TARGETS = 1 << 27  # values of a last layer that it is refitted to


@dataclass(frozen=True)
class Settings:
    """How to refit: the way (`bias`, `self` or `stream`), the ridges, and the number of rows."""

    way: str
    ridge: float
    conv_ridge: float
    samples: int


def refit_all(
    claim: Masked, context: Context, batches: Sequence[Feeds], settings: Settings, aim: Aim
) -> Iterator[tuple[Consumer, Refit]]:
    """Refit every consumer that lost features, and in the way `stream` all that write to a residual stream.

    They come one at a time, so that nobody has to hold all of them at full size.
    """
    return _Sequence(claim, context, batches, settings, aim).run()


class _Sequence:
    def __init__(
        self, claim: Masked, context: Context, batches: Sequence[Feeds], settings: Settings, aim: Aim
    ) -> None:
        self.claim = claim
        self.settings = settings
        self.context = context
        self.count = len(batches)
        masked, _ = list(claim.references())[-1]
        self.pruned = Stream(masked, context, batches)
        self.nodes = makers(self.pruned.model.graph)
        plain = (c.narrow() for c in find_consumers(claim.analysis) if not c.shared)
        self.waiting = {c.name: c for c in plain if c.name in self.nodes}  # bodies do not run piece by piece
        self.junctions = junctions_of(self.waiting.values(), claim.analysis)
        blind = any(map(self._is_blind, self.waiting.values()))
        self.dense: Targets | None = None
        if settings.way == "stream" or (settings.way == "self" and blind):
            self.dense = Targets(aim, batches, (junction.seen for junction in self.junctions.values()))

    def run(self) -> Iterator[tuple[Consumer, Refit]]:
        for name in list(self.waiting):
            if name in self.waiting:
                yield from self._visit(self.waiting[name])

    def _visit(self, consumer: Consumer) -> Iterator[tuple[Consumer, Refit]]:
        """Refit a consumer, after those that it reads from and those beside it with fewer features to make up with."""
        others = self._ahead([consumer.data])
        others += [other for other in self._beside(consumer) if other.features < consumer.features]
        for other in others:
            if other.name in self.waiting:
                yield from self._visit(other)
        lossy = touched(consumer.input_axis, self.claim.masks)
        junction = self._junction(consumer)
        if junction is not None or (lossy and not self._is_blind(consumer)):
            found = self._fit(consumer, junction)
            self._install(consumer, found)
            yield consumer, found
        del self.waiting[consumer.name]
        if self.dense is not None:
            self.dense.done(self.junctions[consumer.name].seen)

    def _beside(self, consumer: Consumer) -> list[Consumer]:
        """What makes the other side of the sum that a consumer writes to, still to be refitted and not behind it."""
        skip = self.junctions[consumer.name].skip
        if self.dense is None or skip is None:
            return []
        found = self._ahead([skip])
        return [] if consumer in found else found

    def _ahead(self, names: Sequence[str]) -> list[Consumer]:
        """What is still to be refitted and would run for these tensors."""
        needed = {id(n) for n in self.pruned.needed(names)}
        return [c for c in self.waiting.values() if id(self.nodes[c.name]) in needed]

    def _install(self, consumer: Consumer, found: Refit) -> None:
        """The masked model goes on with the new weight."""
        node = self.nodes[consumer.name]
        model = self.pruned.model
        set_weight(model, node, consumer.stored(found.weight).astype(node.inputs[1].dtype))
        added = set_bias(model, node, found.bias)
        if added is not None:
            self.pruned.wait_for(added)

    def _fit(self, consumer: Consumer, junction: Junction | None) -> Refit:
        keep = np.repeat(mask_of(consumer.input_axis, self.claim.masks), consumer.window)
        samples: list[Sample] = []
        fit, held = self._moments(consumer, junction, samples)
        bias = bias_of(self.nodes[consumer.name])
        if bias is None:
            bias = np.zeros(prod(consumer.outputs))
        own = [] if self._is_blind(consumer) else [self._towards_self(consumer, fit, held, keep, bias)]
        if junction is None:
            return own[0]
        other = (self._towards_stream(consumer, fit, keep, factor) for factor in FACTORS)
        best = min(chain(own, other), key=lambda found: _error(found, held))
        if junction.activation is None or not samples:
            return best
        activation = junction.activation.load(self.claim.analysis.model, self.context)
        matters = mask_of(consumer.output_axis, self.claim.masks)
        through = Through(samples, activation, fit, matters)
        return through.improved(best, self._ridge(consumer, fit.covariance, 1.0), keep)

    def _is_blind(self, consumer: Consumer) -> bool:
        """Whether removed features have no values of their own, because a statistic ran without them."""
        return any(atom.coupled and atom in self.claim.masks for atom in atoms(consumer.input_axis))

    def _moments(
        self, consumer: Consumer, junction: Junction | None, samples: list[Sample]
    ) -> tuple[Moments, Moments]:
        """Moments of the consumer's input, and of its target where it has one: to fit on, and held out.

        Where an activation follows, the rows themselves go to `samples`.
        """
        most = rows_for(consumer.features, self.settings.samples)
        sampler = Sampler(consumer, most, self.pruned.valid, self.context.seed)
        fit, held = Moments(), Moments()
        skip = [junction.skip] if junction is not None and junction.skip is not None else []
        data = self.pruned.reach(consumer.data, *skip)
        for i, (found, totals) in enumerate(zip(data, self._totals(junction), strict=True)):
            rows, out = sampler.rows(i, found[0]), i % 5 == 4 or self.count == 1
            goals = [sampler.targets(i, total) for total in totals]
            added = sampler.targets(i, found[1]) if skip else None
            wanted = (goals[0] if added is None else goals[0] - added) if goals else None
            samples += [Sample(rows, added, seen, out).thinned(self.count) for seen in goals[1:]]
            weights = junction.weights(goals[0]) if junction is not None and goals else None
            (held if out else fit).add(rows, wanted, weights)
        return (fit if fit.count else held), (held if held.count else fit)

    def _totals(self, junction: Junction | None) -> Iterator[list[Array]]:
        """What the original makes at a junction, and behind its activation, batch by batch."""
        if junction is None or self.dense is None:
            yield from [[]] * self.count
        else:
            yield from self.dense.reach(junction.seen)

    def _towards_self(
        self, consumer: Consumer, fit: Moments, held: Moments, keep: Array, bias: Array
    ) -> Refit:
        """Of the ridges tried the one that serves the held-out rows best."""
        weight = consumer.matrix
        if keep.all():
            return Refit(weight, bias)
        tried = [weight * keep]
        if self.settings.way != "bias":
            covariance, other = fit.covariance, held.covariance
            added = (self._ridge(consumer, covariance, factor) for factor in FACTORS)
            tried = [refit(weight, covariance, weight @ covariance, each, keep) for each in added]
            tried.sort(key=lambda kept: np.einsum("gof,gof->", (weight - kept) @ other, weight - kept))
        moved = np.einsum("gof,gf->go", weight - tried[0], fit.mean)
        return Refit(tried[0], bias + moved.reshape(-1))

    def _towards_stream(self, consumer: Consumer, fit: Moments, keep: Array, factor: float) -> Refit:
        added = self._ridge(consumer, fit.covariance, 2 * factor)
        kept = refit(consumer.matrix, fit.covariance, fit.cross, added, keep)
        return Refit(kept, (fit.target_mean - np.einsum("gof,gf->go", kept, fit.mean)).reshape(-1))

    def _ridge(self, consumer: Consumer, covariance: Array, factor: float) -> Array:
        if consumer.node.op == "Conv":
            return ridge(covariance, factor * self.settings.conv_ridge, own=False)
        return ridge(covariance, factor * self.settings.ridge, own=True)

    def _junction(self, consumer: Consumer) -> Junction | None:
        blind = self._is_blind(consumer)
        if self.dense is None or (self.settings.way != "stream" and not blind):
            return None
        found = self.junctions[consumer.name]
        if found.skip is None:
            # Nothing but a layer's own output can correct a chain; what enters a sub-layer is better left to itself.
            return found if consumer.node.op == "Conv" or blind or self._is_last(consumer) else None
        # A skip that is still to be refitted itself must not run before that.
        return None if self._ahead([found.skip]) else found

    def _is_last(self, consumer: Consumer) -> bool:
        """Whether a layer makes an output of the model, up to a softmax, that is small enough to be a target."""
        outputs = {t.name for t in self.claim.analysis.model.graph.outputs}
        total = self.claim.analysis.model.graph.tensors()[self.junctions[consumer.name].total]
        after = [t.name for node in total.outputs if node.op in SQUASHING for t in node.outputs]
        few = prod(consumer.outputs) * self.settings.samples <= MOST_TARGETS
        return few and not outputs.isdisjoint((total.name, *after))


def _error(found: Refit, held: Moments) -> float:
    """Mean squared distance to the held-out targets, up to a constant."""
    w = found.weight
    spread = np.einsum("gof,gof->", w @ held.covariance, w) - 2 * np.einsum("gof,gof->", w, held.cross)
    offset = np.einsum("gof,gf->go", w, held.mean) + found.bias.reshape(w.shape[:2]) - held.target_mean
    return float(spread + np.square(offset).sum())
