"""How sparse each weight becomes: the shares of zeros that do least harm and make up the share asked for.

Harm adds up over layers, each a function of its own share of zeros; steps are taken in the order of harm per zero,
on the lower convex hulls of these functions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod

import numpy as np

from pruneopt.arrays import Array
from pruneopt.model import Model
from pruneopt.passes.context import Context
from pruneopt.passes.sparsity.layers import shape
from pruneopt.passes.sparsity.sequence import Settings
from pruneopt.passes.sparsity.sites import LEVELS, rates, study
from pruneopt.passes.statistics.consumers import Consumer

Harm = Mapping[Consumer, Array]


def measured(
    model: Model, layers: Sequence[Consumer], sparsity: float, settings: Settings, context: Context
) -> tuple[dict[Consumer, float], float]:
    """The share of zeros of each layer, by curves and probes, and the harm foreseen.

    Over all weights the shares come to `sparsity`.
    """
    harm = measured_harm(model, layers, sparsity, settings, context)
    share = settings.pattern.share
    if share is not None:  # all that the pattern says, or nothing
        levels = [0.0, share]
    else:
        most = (1 + sparsity) / 2  # beyond half the weights that are left on average a probe says little
        levels = [float(x) for x in LEVELS if x < most] + [most]
    shares = allocate({c: np.interp(levels, LEVELS, h) for c, h in harm.items()}, levels, sparsity)
    return shares, sum(float(np.interp(shares[c], LEVELS, h)) for c, h in harm.items())


def measured_harm(
    model: Model, layers: Sequence[Consumer], sparsity: float, settings: Settings, context: Context
) -> dict[Consumer, Array]:
    """What zeros do at the outputs, of each layer by itself, at the shares in LEVELS; probed at `sparsity`."""
    sites = study(model, layers, sparsity, settings, context)
    harm: dict[Consumer, Array] = {}
    for site, rate in zip(sites, rates(model, sites, context), strict=True):
        here = sum(float(np.interp(sparsity, LEVELS, curve)) for curve in site.curves) or 1.0
        harm |= {layer: curve * rate / here for layer, curve in zip(site.layers, site.curves, strict=True)}
    return harm


def allocate(harm: Harm, levels: Sequence[float], sparsity: float) -> dict[Consumer, float]:
    """Shares of zeros, of all weights together `sparsity`, of least summed harm.

    Args:
        harm: of each layer at each level, ascending.
        levels: shares of zeros, ascending from 0; with more than two of them, shares between are possible.
        sparsity: at most the last level.
    """
    sizes = {c: prod(shape(c)) for c in harm}
    steps = sorted(
        (slope, which, stop)
        for which, consumer in enumerate(harm)
        for slope, stop in _hull(harm[consumer], levels, sizes[consumer])
    )
    left = sparsity * sum(sizes.values())
    layers, found = list(harm), dict.fromkeys(harm, 0.0)
    for _, which, stop in steps:
        consumer = layers[which]
        gain = (stop - found[consumer]) * sizes[consumer]
        if gain >= left and len(levels) > 2:
            found[consumer] += left / sizes[consumer]
            break
        found[consumer], left = stop, left - gain
        if left <= 0:
            break
    return found


def _hull(harm: Array, levels: Sequence[float], size: int) -> Iterator[tuple[float, float]]:
    """(harm per zero, level) of each corner of the lower convex hull, ascending in both."""
    i = 0
    while i + 1 < len(levels):
        slopes = [(harm[k] - harm[i]) / ((levels[k] - levels[i]) * size) for k in range(i + 1, len(levels))]
        step = int(np.argmin(slopes))
        i += 1 + step
        yield float(slopes[step]), levels[i]
