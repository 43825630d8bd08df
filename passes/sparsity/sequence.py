"""Makes weights sparse in graph order, each on the inputs that the sparse weights before it now make."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.analysis.infer import Analysis
from pruneopt.arrays import Array
from pruneopt.model import Model, makers, values
from pruneopt.passes.context import Context
from pruneopt.passes.rewriting.weights import bias_of, set_bias, set_weight
from pruneopt.passes.sparsity.aims import Aims
from pruneopt.passes.sparsity.features import Rows, aimed, in_pieces, joined, measure, pieces
from pruneopt.passes.sparsity.methods import Method
from pruneopt.passes.sparsity.methods.ria import importance
from pruneopt.passes.sparsity.patterns import Pattern
from pruneopt.passes.statistics.consumers import Consumer
from pruneopt.passes.statistics.stream import Stream, small_batches

LOOK = 4096  # rows per layer that importance is judged by
Shares = Mapping[Consumer, float]


@dataclass(frozen=True)
class Settings:
    """How to make weights sparse: the method, the pattern, and the rows per layer to look at."""

    method: Method
    pattern: Pattern
    samples: int


@dataclass(frozen=True)
class Change:
    """What became of one weight.

    Attributes:
        weight: as the node stores it.
        bias: shape [outputs]; None where it stays.
        sparsity: share of its weights in units of zeros.
        error: squared error of the outputs as a share of their variance, on the inputs that the layer now gets;
            None without data.
    """

    weight: Array
    bias: Array | None
    sparsity: float
    error: float | None


def changed(
    analysis: Analysis, shares: Shares, settings: Settings, context: Context
) -> Iterator[tuple[Consumer, Change]]:
    """Each weight made sparse: in graph order on calibration data, or without data by itself."""
    if context.calibration:
        yield from _in_order(analysis, shares, settings, context)
    else:
        for consumer, share in shares.items():
            yield consumer, change(consumer, None, None, share, settings)


def _in_order(
    analysis: Analysis, shares: Shares, settings: Settings, context: Context
) -> Iterator[tuple[Consumer, Change]]:
    """Each weight on what the model makes with the ones before it changed already.

    Where the method refits and a layer writes to a stream, it is refitted towards the original's, see `aims`.
    """
    batches = small_batches(context)
    stream = Stream(analysis.model.copy(), context, batches)
    nodes = makers(stream.model.graph)
    aims = Aims(analysis, shares if settings.method.refits else (), context, batches)
    for _, siblings in groupby(shares, key=same_rows):
        together = list(siblings)
        rows: Rows | None = None
        for consumer in together:
            node = nodes[consumer.name]
            junction = aims.junction(consumer, stream)
            if junction is not None and pieces(consumer, settings.pattern) == 1:
                known = aimed(consumer, stream, junction, aims, settings.samples, context.seed)
            else:
                rows = rows or measure(consumer, stream, settings.pattern, settings.samples, context.seed)
                known = rows
            made = change(consumer, known, constant_bias(consumer, node), shares[consumer], settings)
            kind = values(node.inputs[consumer.slot]).dtype
            set_weight(stream.model, node, made.weight.astype(kind), consumer.slot)
            if made.bias is not None:
                set_bias(stream.model, node, made.bias)
            aims.done(consumer)
            yield consumer, made


def applied(model: Model, changes: Iterable[tuple[Consumer, Change]]) -> Model:
    """A copy of `model` with new weights and biases."""
    made = model.copy()
    nodes = makers(made.graph)
    for consumer, each in changes:
        node = nodes[consumer.name]
        set_weight(made, node, each.weight, consumer.slot)
        if each.bias is not None:
            set_bias(made, node, each.bias)
    return made


def look(
    model: Model, layers: Sequence[Consumer], context: Context
) -> Iterator[tuple[Consumer, Callable[[], Array]]]:
    """The relative importance of each layer's weights in the model as it is; shape [groups * outputs, features].

    Worked out when asked for: of all layers together it takes as much room as the model.
    """
    batches = small_batches(context)
    stream = Stream(model.copy(), context, batches) if batches else None
    for _, siblings in groupby(layers, key=same_rows):
        together = list(siblings)
        rows = measure(together[0], stream, Pattern(), LOOK, context.seed) if stream else None
        for consumer in together:
            yield consumer, partial(_importance, consumer, rows.squares if rows else None)


def _importance(consumer: Consumer, squares: Array | None) -> Array:
    weight = consumer.as_matrix(values(consumer.use.constant)).astype(np.float32)
    known = (
        squares.reshape(len(weight), -1).astype(np.float32) if squares is not None else [None] * len(weight)
    )
    return np.concatenate([importance(w, s) for w, s in zip(weight, known, strict=True)])


def same_rows(consumer: Consumer) -> tuple[object, ...]:
    """What two consumers in a row must agree in to be applied to the same features."""
    if consumer.node.op != "Conv":
        return (consumer.data, consumer.slot)
    return (consumer.data, consumer.groups, tuple(consumer.use.constant.shape[2:]), repr(consumer.node.attrs))


def constant_bias(consumer: Consumer, node: gs.Node) -> Array | None:
    """What is added to each output of a layer, shape [outputs]; None where that is no constant of one number each."""
    return bias_of(node) if consumer.slot else None


def change(
    consumer: Consumer, rows: Rows | None, bias: Array | None, share: float, settings: Settings
) -> Change:
    """Make one weight sparse; where the method refits, a constant `bias`, shape [outputs], takes over means."""
    weight = consumer.as_matrix(values(consumer.use.constant)).astype(np.float32)
    method, pattern = settings.method, settings.pattern
    if rows is None:
        found = np.stack([method.prune(w, None, pattern, share) for w in weight]) + 0.0  # no -0.0
        return Change(consumer.stored(found), None, _sparsity(found, pattern), None)
    moving = bias is not None and method.refits
    known, groups = rows.centred if moving else rows.whole, len(weight)
    weight = in_pieces(weight, len(known))
    wanted = _means(weight, rows, groups) + (0 if bias is None else bias.reshape(groups, -1))
    if rows.targets is not None:
        weight = rows.targets.start(weight.astype(np.float64), moving).astype(np.float32)
        wanted = rows.targets.mean
    found = np.stack([method.prune(w, g, pattern, share) for w, g in zip(weight, known, strict=True)]) + 0.0
    wrong = sum(g.error(each) for g, each in zip(known, weight - found, strict=True))
    spread = sum(g.error(w) for w, g in zip(weight, rows.centred, strict=True))
    whole = joined(found, groups)
    return Change(
        consumer.stored(whole),
        (wanted - _means(found, rows, groups)).reshape(-1) if moving else None,
        _sparsity(whole, pattern),
        wrong / (spread or 1.0),
    )


def _means(weight: Array, rows: Rows, groups: int) -> Array:
    """What the means of the features come to, shape [groups, outputs]."""
    each = np.einsum("gof,gf->go", weight, rows.mean)
    return np.asarray(each.reshape(groups, -1, each.shape[1]).sum(1))


def _sparsity(found: Array, pattern: Pattern) -> float:
    return float(np.mean([pattern.sparsity(w) for w in found]))
