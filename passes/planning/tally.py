"""Costs that follow one changed size at a time: only the terms that contain the atom are computed again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Protocol

import numpy as np

from pruneopt.analysis.axes import Axis, atoms
from pruneopt.analysis.masks import size_of
from pruneopt.errors import PruneoptError

SHARPNESS = 24  # power of the mean that stands for a maximum where slopes are needed


class Term(Protocol):
    """One summand of a cost."""

    @property
    def axes(self) -> Sequence[Axis]:
        """What it depends on."""

    def at(self, sizes: Sequence[int]) -> float:
        """Its value at these sizes of its axes."""


@dataclass(frozen=True)
class Volume:
    """A product of sizes times a weight: multiply-accumulates, elements, bytes."""

    axes: tuple[Axis, ...]
    weight: float = 1.0

    def at(self, sizes: Sequence[int]) -> float:
        """Its value at these sizes of its axes."""
        return self.weight * prod(sizes)


@dataclass(frozen=True)
class Limit:
    """A budget: the cost is at most `share` of `whole`.

    A cost is the largest of several sums. Most have one sum of all terms; memory has one for each moment.

    Attributes:
        name: of the budget, as users give it.
        terms: the summands.
        whole: the input's cost.
        share: of it that may be kept, at most.
        spans: for each term the sums that it is part of, a range; None where there is one sum only.
        uneven: it was measured, so that a smaller size may cost as much as a larger one, or more.
    """

    name: str
    terms: Sequence[Term]
    whole: float
    share: float
    spans: Sequence[slice] | None = None
    uneven: bool = False

    @property
    def most(self) -> float:
        """The largest cost allowed."""
        return self.share * self.whole


class Tally:
    """The state of one budget for current sizes of the atoms."""

    def __init__(self, limit: Limit, run: int = -1) -> None:
        self.limit = limit
        self.run = run
        self.kept: dict[Axis, int] = {}
        self._where: dict[Axis, list[int]] = {}
        for i, term in enumerate(limit.terms):
            for atom in {a for axis in term.axes for a in atoms(axis)}:
                self._where.setdefault(atom, []).append(i)
        self._spans = limit.spans or [slice(0, 1)] * len(limit.terms)
        self._values = [self._value(i) for i in range(len(limit.terms))]
        self._sums = np.zeros(max((span.stop for span in self._spans), default=1))
        for value, span in zip(self._values, self._spans, strict=True):
            self._sums[span] += value

    @property
    def total(self) -> float:
        """The cost now."""
        return float(self._sums.max())

    @property
    def pressure(self) -> float:
        """The cost, or near it where it is a maximum: that falls with any of the largest sums, not only with all."""
        if len(self._sums) == 1:
            return float(self._sums[0])
        most = float(self._sums.max()) or 1.0
        return most * float(np.sum((self._sums / most) ** SHARPNESS) ** (1 / SHARPNESS))

    def set(self, sizes: dict[Axis, int]) -> float:
        """Change sizes; returns the new total."""
        changed = {a: n for a, n in sizes.items() if self.kept.get(a, a.size[self.run]) != n}
        self.kept |= changed
        for i in {i for atom in changed for i in self._where.get(atom, [])}:
            value = self._value(i)
            self._sums[self._spans[i]] += value - self._values[i]
            self._values[i] = value
        return self.total

    def _value(self, i: int) -> float:
        term = self.limit.terms[i]
        return term.at([size_of(a, self.kept, self.run) for a in term.axes])


def unmet(tallies: Sequence[Tally]) -> PruneoptError:
    """The error that says which budgets do not hold, with all groups at their floor."""
    least = {t.limit.name: t.total / t.limit.whole for t in tallies if t.total > t.limit.most}
    words = " and ".join(
        f"{name} cannot go below {share:.3f} of the input's" for name, share in least.items()
    )
    return PruneoptError(
        f"the budget cannot be met: {words} with every group at its floor; see 'pruneopt inspect' for what is frozen, "
        "or allow groups under a norm with --passes 'width{...,coupled=true}'",
        least=least,
    )


def worthwhile(atom: Axis, sizes: Sequence[int], limits: Sequence[Limit]) -> list[int]:
    """Those of a group's sizes, largest first, that measured costs do not speak against, all others whole.

    A runtime pads odd widths, and some are slower than larger ones: what costs half a step more than the
    lower convex hull says loses. The largest size stays in any case.
    """
    kept = list(sizes)
    for limit in limits:
        if limit.uneven and len(kept) > 1:
            tally = Tally(limit)
            kept = _near_hull(kept, [tally.set({atom: n}) for n in kept])
    return kept


def _near_hull(sizes: Sequence[int], costs: Sequence[float]) -> list[int]:
    hull = [0]
    for i in range(1, len(sizes)):
        while len(hull) > 1 and _slope(sizes, costs, hull[-1], i) >= _slope(sizes, costs, *hull[-2:]):
            hull.pop()
        hull.append(i)
    line = np.interp(sizes, [sizes[i] for i in reversed(hull)], [costs[i] for i in reversed(hull)])
    steps = np.abs(np.diff(line, prepend=line[0]))
    allowed = 0.5 * np.maximum(steps, np.append(steps[1:], steps[-1]))
    cheapest = np.minimum.accumulate(costs)
    return [
        n
        for i, n in enumerate(sizes)
        if i == 0 or (costs[i] - line[i] <= allowed[i] and costs[i] < cheapest[i - 1])
    ]


def _slope(sizes: Sequence[int], costs: Sequence[float], i: int, j: int) -> float:
    """Cost saved per entry between two sizes."""
    return (costs[i] - costs[j]) / (sizes[i] - sizes[j])
