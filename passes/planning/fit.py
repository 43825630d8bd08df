"""A kernel's time as a function of its sizes, from a few measurements.

    t = (a + b * traffic + c * work) * e^r,    a, b, c >= 0

with traffic and work at sizes rounded up to the runtime's grain, and r what the measurements say besides,
nearer ones more: a width that is slow for reasons of its own is slow in the model, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from math import prod

import numpy as np
import numpy.typing as npt

from pruneopt.analysis.axes import Axis
from pruneopt.passes.planning.sites import Axes, Site

Array = npt.NDArray[np.float64]
Sizes = tuple[int, ...]
GRAINS = (1, 4, 8, 16, 32)  # widths of vectors and of blocked layouts
CLEARLY = 0.8  # a coarser grain must bring the error below this share
NEAR = 0.25  # octaves within which measurements speak for each other
PRIOR = 0.1  # what the formula's own word weighs against one measurement at the very place
TINY = 1e-4  # milliseconds; the clock of kernels shows thousandths


@dataclass
class Timed:
    """The time of one site; a term of a budget.

    Attributes:
        site: what was timed.
        axes: its axes that vary; their sizes are the arguments.
        scale: of kernels' times to the whole model's.
    """

    site: Site
    axes: tuple[Axis, ...]
    scale: float = 1.0
    grain: int = 1
    _samples: dict[Sizes, float] = field(default_factory=dict)
    _trust: dict[Sizes, float] = field(default_factory=dict)
    _weights: Array = field(default_factory=lambda: np.zeros(3))
    _known: dict[Sizes, float] = field(default_factory=dict)

    def add(self, sizes: Sequence[int], ms: float, trust: float = 1.0) -> None:
        """One measurement, and what it weighs; of several at one place the most trusted counts."""
        place = tuple(sizes)
        if trust >= self._trust.get(place, 0.0):
            self._samples[place] = max(ms, TINY)
            self._trust[place] = trust

    def settle(self, grain: int) -> None:
        """Fit all measurements so far."""
        self.grain = grain
        self._weights = _nonnegative(*self._rows(grain))
        self._known = {}

    def error(self, grain: int) -> float:
        """Sum of the squared relative errors with this grain."""
        rows, target = self._rows(grain)
        return float(np.square(rows @ _nonnegative(rows, target) - target).sum())

    def at(self, sizes: Sequence[int]) -> float:
        """Milliseconds at these sizes of its axes."""
        place = tuple(sizes)
        if place not in self._known:
            formula = float(self._features(place, self.grain) @ self._weights)
            self._known[place] = self.scale * max(formula, TINY) * float(np.exp(self._besides(place)))
        return self._known[place]

    def _besides(self, place: Sizes) -> float:
        """What measurements near by add to the formula, as a logarithm."""
        taken = np.array([*self._samples])
        octaves = np.log2(np.maximum(taken, 1)) - np.log2(np.maximum(place, 1))
        near = np.exp(-0.5 * np.square(octaves).sum(axis=1) / NEAR**2) * [*self._trust.values()]
        formula = np.array([self._features(s, self.grain) @ self._weights for s in self._samples])
        rest = np.log([*self._samples.values()]) - np.log(np.maximum(formula, TINY))
        return float(near @ rest / (PRIOR + near.sum()))

    def _rows(self, grain: int) -> tuple[Array, Array]:
        times = np.array([*self._samples.values()])
        rows = np.array([self._features(s, grain) for s in self._samples])
        trust = np.array([*self._trust.values()])
        return rows * (trust / times)[:, None], trust

    def _features(self, sizes: Sizes, grain: int) -> Array:
        at = {id(a): -(-n // grain) * grain for a, n in zip(self.axes, sizes, strict=True)}
        return np.array([1.0, _sum(self.site.traffic, at) / 1e6, _sum(self.site.work, at) / 1e6])


def settle_all(terms: Sequence[Timed]) -> None:
    """Fit all; sites of one op share the grain that explains their times best."""
    for op in {t.site.op for t in terms}:
        same = [t for t in terms if t.site.op == op]
        errors = {grain: sum(t.error(grain) for t in same) for grain in GRAINS}
        best = min(errors, key=lambda grain: errors[grain])
        if errors[best] > CLEARLY * errors[1]:
            best = 1
        for term in same:
            term.settle(best)


def remainder(wholes: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """What runs between kernels: (ms, factor) with whole = ms + factor * kernels, from runs (kernels, whole).

    Calls and small tensors cost the same at any width; memory that is fetched and given back does not.
    """
    inside, whole = np.array(wholes).T
    weight = 1 / np.maximum(whole, TINY)
    rows = np.stack([np.ones_like(inside), inside], axis=1) * weight[:, None]
    between, factor = _nonnegative(rows, np.ones(len(inside)))
    return float(between), float(factor)


def _sum(products: Iterable[Axes], at: dict[int, int]) -> float:
    return float(sum(prod(at.get(id(a), a.size[-1]) for a in axes) for axes in products))


def _nonnegative(rows: Array, target: Array) -> Array:
    """Weights >= 0 with rows @ weights near target: the best of all sets of columns."""
    best, found = np.inf, np.zeros(rows.shape[1])
    for count in range(1, rows.shape[1] + 1):
        for chosen in map(list, combinations(range(rows.shape[1]), count)):
            weights = np.linalg.lstsq(rows[:, chosen], target, rcond=None)[0]
            error = float(np.square(rows[:, chosen] @ weights - target).sum())
            if error < best * (1 - 1e-9) and (weights >= 0).all():
                best, found = error, np.zeros(rows.shape[1])
                found[chosen] = weights
    return found
