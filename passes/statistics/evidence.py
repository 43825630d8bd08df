"""What a criterion may know of a group: its weights, and how the data looks that they are applied to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.analysis.axes import Axis, atoms
from pruneopt.analysis.groups import Group
from pruneopt.analysis.infer import Analysis
from pruneopt.arrays import Array, Feeds
from pruneopt.errors import UsageError
from pruneopt.model import values
from pruneopt.passes.context import Context
from pruneopt.passes.statistics.consumers import Consumer, Index, consumers_of, find_consumers
from pruneopt.passes.statistics.junctions import Junction, junctions_of
from pruneopt.passes.statistics.moments import Moments
from pruneopt.passes.statistics.pairs import PairMoments, find_pairs
from pruneopt.passes.statistics.rows import Sampler, rows_for
from pruneopt.passes.statistics.stakes import Stakes
from pruneopt.passes.statistics.stream import Stream

if TYPE_CHECKING:
    from pruneopt.passes.learning.gradients import Gradients

SAMPLES = 20_000  # rows per consumer, at most; at least eight per feature


@dataclass(frozen=True)
class View:
    """A group as one of its consumers sees it.

    Attributes:
        consumer: it sums over the group's entries.
        moments: of its input.
        entries: the group's entry that each feature belongs to, -1 for none; shape [features].
        importance: weight of each output, shape [groups, outputs].
    """

    consumer: Consumer
    moments: Moments
    entries: Index
    importance: Array

    @property
    def weight(self) -> Array:
        """Shape [groups, outputs, features]."""
        return self.consumer.matrix

    @property
    def variance(self) -> float:
        """Variance of the consumer's output, its outputs weighted by importance."""
        heard = self.consumer.heard(self.importance)
        return float(np.einsum("gef,gef->", heard, self.moments.covariance)) or 1.0

    def per_entry(self, features: Array, size: int) -> Array:
        """Sum a number per feature, shape [features], onto the group's entries, shape [size]."""
        inside = self.entries >= 0
        return np.bincount(self.entries[inside], features[inside], minlength=size)


@dataclass
class Evidence:
    """All that was measured.

    Attributes:
        analysis: of the model that ran.
        seed: seed of everything random.
        moments: per consumer's name the moments of its input; empty without calibration data.
        pairs: per atom the moments of both sides of products over it.
        consumers: all consumers of the model.
        stakes: by the name of a consumer's output what an error of each entry is worth, where they are classes.
        measured: whether there was calibration data; what bodies of control flow read has no moments then, either.
        curves, rates: what `planning` has worked out already.
        learn: works out the gradients, which only a few criteria ask for.
        look: named tensors on a batch, for criteria that look at whole activations.
    """

    analysis: Analysis
    seed: int = 0
    moments: dict[str, Moments] = field(default_factory=dict)
    consumers: list[Consumer] = field(default_factory=list)
    stakes: Mapping[str, Array] = field(default_factory=dict)
    pairs: dict[Axis, list[PairMoments]] = field(default_factory=dict)
    measured: bool = False
    curves: dict[Group, Any] = field(default_factory=dict)
    rates: dict[Group, Any] = field(default_factory=dict)
    learn: Callable[[], Gradients] | None = None
    look: Callable[[Sequence[str]], dict[str, Array]] | None = None
    _gradients: Gradients | None = None
    _sampled: dict[str, Array] = field(default_factory=dict)

    def gradients(self) -> Gradients:
        """Gradients of the loss by every weight, worked out once. Raises UsageError without calibration data."""
        if self._gradients is None:
            if self.learn is None:
                raise UsageError(
                    "this criterion takes gradients; give calibration data (--calib), or choose l2"
                )
            self._gradients = self.learn()
        return self._gradients

    def sampled(self) -> dict[str, Array]:
        """What consumers read, and the outputs, on a batch; run once. Raises UsageError without calibration data."""
        if not self._sampled:
            if self.look is None:
                raise UsageError("this criterion looks at activations; give calibration data (--calib)")
            outputs = [t.name for t in self.analysis.model.outputs]
            made = {t.name for n in self.analysis.model.graph.nodes for t in n.outputs}
            names = {c.data for c in self.consumers if c.data in made}
            self._sampled = self.look([*outputs, *sorted(names - set(outputs))])
        return self._sampled

    def views(self, group: Group) -> list[View]:
        """The group as each consumer sees it.

        Raises:
            UsageError: there is no calibration data.
        """
        if not self.measured:
            raise UsageError(
                "this criterion looks at activations; give calibration data (--calib), or choose l2"
            )
        found = []
        for consumer in consumers_of(group.atom, self.consumers):
            entries = consumer.entries(group.atom)
            if consumer.name in self.moments and entries is not None:
                found.append(View(consumer, self.moments[consumer.name], entries, self._importance(consumer)))
        return found

    def _importance(self, consumer: Consumer) -> Array:
        """Shape [groups, outputs]."""
        own = importance(consumer)
        return own * self.stakes[consumer.name].reshape(own.shape) if consumer.name in self.stakes else own


def gather(
    analysis: Analysis,
    wanted: Sequence[Axis],
    context: Context,
    batches: Sequence[Feeds],
    watched: Mapping[str, Callable[[int, Array], None]] | None = None,
) -> Evidence:
    """One run of the model over `batches`: moments of the input of every consumer of the `wanted` atoms.

    Whoever watches a tensor is given its value in every batch.
    """
    stakes = Stakes.of(analysis.model, context).of_layers(analysis.model.graph)
    consumers = [consumer.narrow() for consumer in find_consumers(analysis, made=True)]
    evidence = Evidence(analysis, context.seed, {}, consumers, stakes, measured=True)
    free = set(wanted)
    asked = {id(c.node): c for c in consumers if not free.isdisjoint(atoms(c.input_axis))}
    pairs = {id(p.node): p for p in find_pairs(analysis) if p.atom in free}
    junctions = junctions_of(asked.values(), analysis)
    stream = Stream(analysis.model, context, batches)
    watchers = dict(watched or {})
    looks: list[_Look] = []
    for node in analysis.model.graph.nodes:
        looks += [_Look([t.name], watchers.pop(t.name)) for t in node.inputs if t.name in watchers]
        if id(node) in asked:
            consumer = asked[id(node)]
            looks += _looks_at(consumer, junctions[consumer.name], stream, evidence)
        if id(node) in pairs:
            moments = PairMoments(pairs[id(node)])
            evidence.pairs.setdefault(moments.pair.atom, []).append(moments)
            looks.append(_Look(moments.pair.operands, lambda i, *both, to=moments: to.add(*both)))
    stream.later.update(name for look in looks for name in look.names)
    for look in looks:
        look.along(stream)
    return evidence


@dataclass(frozen=True)
class _Look:
    """Tensors to look at in every batch: `take` is given the number of the batch and their values; `end` comes last."""

    names: Sequence[str]
    take: Callable[..., None]
    end: Callable[[], None] = lambda: None

    def along(self, stream: Stream) -> None:
        stream.later.subtract(self.names)
        for i, found in enumerate(stream.reach(*self.names)):
            self.take(i, *found)
        self.end()


def _looks_at(consumer: Consumer, junction: Junction, stream: Stream, evidence: Evidence) -> Iterator[_Look]:
    """Consumers that see the same rows share their moments."""
    known = [c for c in evidence.consumers if c.name in evidence.moments and c.sees(consumer)]
    if known:
        evidence.moments[consumer.name] = evidence.moments[known[0].name]
        return
    most = rows_for(consumer.features, SAMPLES)
    sampler = Sampler(consumer, most, stream.valid, evidence.seed)
    moments = evidence.moments[consumer.name] = Moments()

    def take(i: int, data: Array, *total: Array) -> None:
        weights = junction.weights(sampler.targets(i, total[0])) if total else None
        moments.add(sampler.rows(i, data), None, weights)

    yield _Look([consumer.data, *([junction.total] if junction.under_norm else [])], take, moments.settle)


def importance(consumer: Consumer) -> Array:
    """Weight of each output: the squared scale of a norm that all of the output goes into, else ones.

    Shape [groups, outputs]. In nets with norms behind the sum, a few outputs are huge and scaled down there.
    """
    shape = consumer.outputs
    scale = _scale_behind(consumer.node.outputs[0], shape[0] * shape[1])
    return np.ones(shape) if scale is None else np.square(scale.astype(np.float64)).reshape(shape)


THROUGH = {"Add", "Sub", "Div", "Sqrt", "Pow", "ReduceMean", "Mul", "Reciprocal"}


def _scale_behind(tensor: gs.Tensor, size: int) -> Array | None:
    """The scale vector of the norm that `tensor` reaches through sums, if it goes nowhere else."""
    for _ in range(3):  # bias, skip, norm
        users = list({id(n): n for n in tensor.outputs}.values())
        if len(users) == 1 and users[0].op == "LayerNormalization":
            return _vector(users[0].inputs[1], size)
        if len(users) != 1 or users[0].op != "Add":
            return _scale_of_parts(users, size)
        tensor = users[0].outputs[0]
    return None


def _scale_of_parts(users: list[gs.Node], size: int) -> Array | None:
    """The scale of a norm that is written out in elementary ops."""
    if (
        not users
        or any(n.op not in THROUGH - {"Add"} for n in users)
        or not any(n.op == "ReduceMean" for n in users)
    ):
        return None
    queue, seen = list(users), set[int]()
    while queue and len(seen) < 12:
        node = queue.pop(0)
        seen.add(id(node))
        found = next((v for t in node.inputs if (v := _vector(t, size)) is not None), None)
        if node.op == "Mul" and found is not None:
            return found
        queue += [n for t in node.outputs for n in t.outputs if n.op in THROUGH and id(n) not in seen]
    return None


def _vector(tensor: gs.Tensor, size: int) -> Array | None:
    if not isinstance(tensor, gs.Constant) or int(np.prod(tensor.shape)) != size or size == 1:
        return None
    return values(tensor).reshape(-1)
