"""Costs that follow one changed size at a time: only the terms that contain the atom are computed again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from pruneopt.analysis.axes import Axis, atoms
from pruneopt.analysis.masks import size_of
from pruneopt.errors import PruneoptError

Term = tuple[Axis, ...]


@dataclass(frozen=True)
class Limit:
    """A budget: the terms' sum, each term a product of axis sizes times a weight, is at most `share` of `whole`."""

    name: str
    terms: Sequence[tuple[Term, float]]
    whole: float
    share: float

    @property
    def most(self) -> float:
        """The largest sum allowed."""
        return self.share * self.whole


class Tally:
    """The state of one budget for current sizes of the atoms."""

    def __init__(self, limit: Limit, run: int = -1) -> None:
        self.limit = limit
        self.run = run
        self.kept: dict[Axis, int] = {}
        self._where: dict[Axis, list[int]] = {}
        for i, (axes, _) in enumerate(limit.terms):
            for atom in {a for axis in axes for a in atoms(axis)}:
                self._where.setdefault(atom, []).append(i)
        self._values = [self._value(i) for i in range(len(limit.terms))]
        self.total = sum(self._values)

    def set(self, sizes: dict[Axis, int]) -> float:
        """Change sizes; returns the new total."""
        changed = {a: n for a, n in sizes.items() if self.kept.get(a, a.size[self.run]) != n}
        self.kept |= changed
        for i in {i for atom in changed for i in self._where.get(atom, [])}:
            self.total -= self._values[i]
            self._values[i] = self._value(i)
            self.total += self._values[i]
        return self.total

    def _value(self, i: int) -> float:
        axes, weight = self.limit.terms[i]
        return weight * prod(size_of(a, self.kept, self.run) for a in axes)


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
