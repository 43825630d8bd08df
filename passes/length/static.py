"""Fixed places (Tang et al., "Patch Slimming for Efficient Vision Transformers", CVPR 2022): which positions stay.

Impact of position i at a stage, s_i = sum over heads of |A P_h[:, i]|^2 |U_h[i, :]|^2: P_h is the attention of a
head there, U_h what its values are, and A the product of the attentions (mean over heads) of all later layers,
each with its shortcut. Averaged over calibration data; positions that stay at a stage stay at all before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from pruneopt.analysis.tokens import Attention, Tokens, same
from pruneopt.arrays import Array
from pruneopt.errors import PruneoptError
from pruneopt.passes.context import Context
from pruneopt.passes.length.filling import Plan
from pruneopt.passes.length.gaps import Group
from pruneopt.passes.length.schedule import lengths

SAMPLES = 64  # inputs that are looked at


def best_places(tokens: Tokens, group: Group, plan: Plan, context: Context) -> list[Array]:
    """Per site the places, among those that the site before left, that stay; ascending."""
    number = group.tokens.size[0]
    left = lengths(plan.stages, plan.method, number)
    impact = _impacts(tokens, group, context)
    impact[:, : group.front] = np.inf
    alive, found = np.arange(number), []
    best = np.argsort(-impact, axis=1, kind="stable")
    for stage, count in enumerate(left):
        ranked = best[stage][np.isin(best[stage], alive)]
        kept = np.sort(ranked[:count])
        found.append(np.searchsorted(alive, kept))
        alive = kept
    return found


def _impacts(tokens: Tokens, group: Group, context: Context) -> Array:
    """[sites, T], the mean over calibration data, or over synthetic inputs where there is none."""
    later = [a for a in tokens.attentions if a.is_self and same(a.tokens, group.tokens)]
    names = [n for a in later for n in (a.probabilities, a.value)]
    session = context.session(tokens.analysis.model, list(dict.fromkeys(names)), optimize=False)
    at = [later.index(site.attention) for site in group.sites]
    total, seen = np.zeros((len(at), group.tokens.size[0])), 0
    for feeds in _some(context):
        found = session.run(feeds)
        maps = [(_by_head(found[a.probabilities], a), _by_head(found[a.value], a)) for a in later]
        total += _impact(maps, at)
        seen += 1
    return total / max(seen, 1)


def _some(context: Context) -> Iterable[Any]:
    count = 0
    for feeds in context.calibration or context.feeds:
        yield feeds
        count += len(next(iter(feeds.values())))
        if count >= SAMPLES:
            return


def _by_head(array: Array, attention: Attention) -> Array:
    """[anything, T, x]: batch and heads as one dimension; of four dimensions their mean over heads follows."""
    if array.ndim not in (3, 4):
        raise PruneoptError(
            f"'{attention.probabilities}' has {array.ndim} dimensions; scores have three or four"
        )
    return array.astype(np.float64)


def _impact(maps: Sequence[tuple[Array, Array]], at: Sequence[int]) -> Array:
    """[sites, T] of one batch."""
    means = [_mean_map(p) for p, _ in maps]
    found = []
    for index in at:
        behind = np.eye(means[0].shape[-1])
        for later in means[index + 1 :]:
            behind = (later + np.eye(len(later))) / 2 @ behind
        p, values = maps[index]
        columns = ((behind @ p) ** 2).sum(-2)  # [..., T]
        found.append((columns * _lengths(values, columns.shape[-1])).reshape(-1, columns.shape[-1]).mean(0))
    return np.array(found)


def _mean_map(p: Array) -> Array:
    return np.asarray(p.reshape(-1, *p.shape[-2:]).mean(0))


def _lengths(values: Array, number: int) -> Array:
    """Squared length of each value, [..., T]."""
    if values.shape[-2] != number:
        values = np.swapaxes(values, -1, -2)
    return np.asarray((values**2).sum(-1))
