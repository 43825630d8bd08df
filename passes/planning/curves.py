"""Error curves: what it costs the consumers of a group when the group loses entries and they are refitted.

Structured optimal brain surgeon (Hassibi & Stork 1992; ZipLM 2023; SlimGPT 2024): with the features' second
moments A, H = A + L and weights W, removing the features g and refitting the others raises the output's squared
error by tr(W_g (H^-1_gg)^-1 W_g^T). The least harmful entries go first; W and H^-1 follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pruneopt.analysis.groups import Group
from pruneopt.arrays import Array
from pruneopt.passes.statistics.evidence import Evidence, View
from pruneopt.passes.statistics.leastsquares import ridge
from pruneopt.passes.statistics.pairs import PairMoments

STEPS = 64  # entries go in about this many lots


@dataclass(frozen=True)
class Curve:
    """The order in which entries go, and the error when the first k are gone.

    Attributes:
        order: entries, least harmful first; shape [size].
        error: shares of the consumers' output variance, summed over consumers; shape [size + 1], error[0] = 0.
    """

    order: npt.NDArray[np.int64]
    error: Array


def curve_of(group: Group, evidence: Evidence) -> Curve | None:
    """The curve of a group, worked out once; None where no consumer can be refitted."""
    if group not in evidence.curves:
        views, pairs = evidence.views(group), evidence.pairs.get(group.atom, [])
        evidence.curves[group] = eliminate(views, pairs, group.size) if views or pairs else None
    known: Curve | None = evidence.curves[group]
    return known


def eliminate(views: Sequence[View], pairs: Sequence[PairMoments], size: int) -> Curve:
    """Remove entries in lots until one is left; consumers count by the inverse of their output's variance."""
    states: list[_State | _PairState] = [_State(same, size) for same in _by_rows(views)]
    states += [_PairState(pair) for pair in pairs]
    alive = np.arange(size)
    order: list[int] = []
    error = np.zeros(size + 1)
    lot = max(1, size // STEPS)
    while len(alive) > 1:
        harm = sum(state.harm() for state in states)
        count = min(lot, len(alive) - 1)
        gone = np.argsort(harm, kind="stable")[:count]
        rise = sum(state.remove(gone) for state in states)
        done = len(order)
        error[done + 1 : done + count + 1] = error[done] + rise * np.arange(1, count + 1) / count
        order += alive[gone].tolist()
        alive = np.delete(alive, gone)
    error[size] = max(float(len(views) + len(pairs)), error[size - 1])  # nothing is left of any output
    return Curve(np.array([*order, *alive]), error)


def _by_rows(views: Sequence[View]) -> list[list[View]]:
    """Views of consumers that see the same rows, together."""
    found: dict[int, list[View]] = {}
    for view in views:
        found.setdefault(id(view.moments), []).append(view)
    return list(found.values())


class _State:
    """Weights and inverse moments of consumers of the same rows, while entries go; features are sorted by entry."""

    def __init__(self, views: Sequence[View], size: int) -> None:
        view = views[0]
        covariance = view.moments.covariance
        conv = view.consumer.node.op == "Conv"
        added = ridge(covariance, 1e-3 if conv else 0.02, own=not conv)
        inside = np.flatnonzero(view.entries >= 0)
        sort = inside[np.argsort(view.entries[inside], kind="stable")]
        self.width = len(sort) // size  # features per entry
        rest = np.flatnonzero(view.entries < 0)
        order = np.concatenate([sort, rest])
        self.weight = _stacked(views, covariance.shape[1])[:, :, order]
        diagonal = np.arange(covariance.shape[1])
        covariance[:, diagonal, diagonal] += added
        self.inverse = np.linalg.inv(covariance)[:, order[:, None], order]
        self.entries = size

    def harm(self) -> Array:
        """The rise in error of removing each entry alone, shape [entries left]."""
        g, o, _ = self.weight.shape
        n, w = self.entries, self.width
        weight = self.weight[:, :, : n * w].reshape(g, o, n, w)
        blocks = self.inverse[:, : n * w, : n * w].reshape(g, n, w, n, w)
        each = np.arange(n)
        inner = blocks[:, each, :, each, :].swapaxes(0, 1)  # [groups, entries, width, width]
        square = np.einsum("gonw,gonv->gnwv", weight, weight, optimize=True)
        if w == 1:
            return np.asarray((square / inner)[:, :, 0, 0].sum(0))
        return np.asarray(np.trace(np.linalg.solve(inner, square), axis1=2, axis2=3).sum(0))

    def remove(self, gone: Array) -> float:
        """Remove entries, by their places among those left; returns the rise in error."""
        features = (gone[:, None] * self.width + np.arange(self.width)).reshape(-1)
        stay = np.delete(np.arange(self.inverse.shape[1]), features)
        cut = self.inverse[:, features[:, None], features]
        weight = self.weight[:, :, features]
        share = np.linalg.solve(cut, weight.swapaxes(1, 2)).swapaxes(1, 2)  # W_g (H^-1_gg)^-1
        rise = float((share * weight).sum())
        across = self.inverse[:, features[:, None], stay]
        self.weight = self.weight[:, :, stay] - share @ across
        self.inverse = self.inverse[:, stay[:, None], stay] - across.swapaxes(1, 2) @ np.linalg.solve(
            cut, across
        )
        self.entries -= len(gone)
        return rise


def _stacked(views: Sequence[View], features: int) -> Array:
    """Rows R with R^T R = sum over consumers of W^T W, outputs by importance over the output's variance.

    Only that product matters, so that there are at most as many rows as features. Shape [groups, rows, features].
    """
    worth = [view.importance / view.variance for view in views]
    if sum(each.shape[1] for each in worth) <= features:
        rows = [v.weight * np.sqrt(each)[:, :, None] for v, each in zip(views, worth, strict=True)]
        return np.concatenate(rows, axis=1)
    heard = sum(v.consumer.heard(each) for v, each in zip(views, worth, strict=True))
    values, vectors = np.linalg.eigh(heard)
    found: Array = (vectors * np.sqrt(np.maximum(values, 0))[:, None]).transpose(0, 2, 1)
    return found


class _PairState:
    """A product of two activations while entries go; nothing is refitted there.

    The error of removing the set R is the sum of the interaction over R x R, as a share of the whole.
    """

    def __init__(self, pair: PairMoments) -> None:
        interaction = pair.interaction
        self.inner = interaction / (float(interaction.sum()) or 1.0)
        self.with_gone = np.zeros(len(self.inner))  # what each entry adds besides its own square

    def harm(self) -> Array:
        """The rise in error of removing each entry alone, shape [entries left]."""
        return np.asarray(np.diagonal(self.inner) + self.with_gone)

    def remove(self, gone: Array) -> float:
        """Remove entries, by their places among those left; returns the rise in error."""
        rise = float(self.inner[np.ix_(gone, gone)].sum() + self.with_gone[gone].sum())
        stay = np.delete(np.arange(len(self.inner)), gone)
        self.with_gone = self.with_gone[stay] + 2 * self.inner[np.ix_(stay, gone)].sum(1)
        self.inner = self.inner[np.ix_(stay, stay)]
        return rise
