"""What sparsity costs each layer: its error as a function of its share of zeros, and what that is worth at the outputs.

A layer's curve sums the costs of single units, least first. A probe says what the error is worth: the layer alone
is made as sparse as all shall be on average, and the damage at the outputs is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from pruneopt.arrays import Array
from pruneopt.model import Model, makers, values
from pruneopt.passes.context import Context
from pruneopt.passes.sparsity.features import in_pieces, measure
from pruneopt.passes.sparsity.gram import Gram
from pruneopt.passes.sparsity.layers import shape
from pruneopt.passes.sparsity.patterns import Pattern
from pruneopt.passes.sparsity.sequence import (
    Change,
    Settings,
    applied,
    change,
    constant_bias,
    same_rows,
)
from pruneopt.passes.statistics.consumers import Consumer
from pruneopt.passes.statistics.damage import Yardstick, outputs
from pruneopt.passes.statistics.stream import Stream, small_batches

LEVELS = np.linspace(0, 1, 65)  # shares of zeros that a curve is known at
PROBES = 32  # runs at most; layers between probed ones of the same shapes get what lies between
FEW = 2  # batches per probe
STUDIED = 32  # batches that curves are worked out from
SAMPLES = 4096  # rows per layer that curves are worked out from


@dataclass(frozen=True, eq=False)
class Site:
    """Layers that read the same features, and are probed together.

    Attributes:
        curves: error of each layer at the shares of zeros in LEVELS.
        probe: each layer at the share asked for; nothing where this site is not probed.
    """

    layers: Sequence[Consumer]
    curves: Sequence[Array]
    probe: Sequence[Change]


def study(
    model: Model, layers: Sequence[Consumer], sparsity: float, settings: Settings, context: Context
) -> list[Site]:
    """Curves of all layers and probes of some, in one run of the model as it is over some of the batches."""
    context.progress("statistics")
    batches = small_batches(context)
    stream = Stream(model.copy(), context, batches[:: -(-len(batches) // STUDIED)])
    nodes = makers(stream.model.graph)
    lots = [list(siblings) for _, siblings in groupby(layers, key=same_rows)]
    probed = _probed(lots)
    sites = []
    for i, together in enumerate(lots):
        rows = measure(together[0], stream, settings.pattern, SAMPLES, context.seed)
        biases = [constant_bias(c, nodes[c.name]) for c in together]
        sites.append(
            Site(
                together,
                [_curve(c, settings.pattern, rows.centred) for c in together],
                [change(c, rows, b, sparsity, settings) for c, b in zip(together, biases, strict=True)]
                if i in probed
                else (),
            )
        )
    return sites


def blind_harm(consumer: Consumer, pattern: Pattern) -> Array:
    """Without data: squared weights in the smallest units as a share of all, times the weights; shape of LEVELS."""
    weight = consumer.as_matrix(values(consumer.use.constant))
    summed = _summed([pattern.units(np.square(w)) for w in weight])
    return np.asarray(weight.size * summed / (summed[-1] or 1.0))


def _curve(consumer: Consumer, pattern: Pattern, known: Sequence[Gram]) -> Array:
    """Summed costs of the cheapest units, each by itself with all others refitted; shape of LEVELS."""
    weight = in_pieces(consumer.as_matrix(values(consumer.use.constant)), len(known))
    return _summed([pattern.units(np.square(w) / g.freedom) for w, g in zip(weight, known, strict=True)])


def _summed(units: Sequence[Array]) -> Array:
    """Costs of the cheapest units, at the shares in LEVELS."""
    costs = np.concatenate([each.reshape(-1) for each in units])
    total = np.concatenate([[0.0], np.cumsum(np.sort(costs))])
    return np.asarray(np.interp(LEVELS, np.linspace(0, 1, len(total)), total))


def rates(model: Model, sites: Sequence[Site], context: Context) -> list[float]:
    """Damage at the outputs that each site's probe does by itself."""
    few = small_batches(context)[:FEW]
    yardstick = Yardstick.of(model.graph, outputs(model, context, few))
    found: dict[int, float] = {}
    for i, site in enumerate(sites):
        if site.probe:
            context.progress(f"probe {site.layers[0].use.constant.name}")
            alone = applied(model, zip(site.layers, site.probe, strict=True))
            found[i] = yardstick.damage(outputs(alone, context, few))
    return [_between(i, sites, found) for i in range(len(sites))]


def _probed(lots: Sequence[Sequence[Consumer]]) -> set[int]:
    """Which sites to probe: all, or of each kind some, the first and the last among them."""
    if len(lots) <= PROBES:
        return set(range(len(lots)))
    kinds: dict[tuple[object, ...], list[int]] = {}
    for i, lot in enumerate(lots):
        kinds.setdefault(_kind(lot), []).append(i)
    each = max(2, PROBES // len(kinds))
    return {own[round(x)] for own in kinds.values() for x in np.linspace(0, len(own) - 1, each)}


def _kind(lot: Sequence[Consumer]) -> tuple[object, ...]:
    """What layers at the same place of another block have in common with these."""
    return tuple(shape(layer) for layer in lot)


def _between(i: int, sites: Sequence[Site], found: dict[int, float]) -> float:
    """The damage of a site: as probed, or geometrically between the nearest of its kind."""
    own = [k for k in found if _kind(sites[k].layers) == _kind(sites[i].layers)]
    logs = np.log([max(found[k], np.finfo(float).tiny) for k in own])
    return float(np.exp(np.interp(i, own, logs)))
