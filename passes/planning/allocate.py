"""The plan with data: sizes of all groups that do the least harm within the budgets.

Minimise the sum of the groups' damage, each a function of its own size, subject to costs that are sums of
products of sizes. On the lower convex hulls of the damage curves the greedy steps of least damage per cost
trace the Lagrangian optimum; what the last step overshoots is given back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pruneopt.analysis.axes import Axis
from pruneopt.analysis.groups import Group, alignment
from pruneopt.passes.planning.tally import Limit, Tally, unmet, worthwhile

Array = npt.NDArray[Any]
Kept = dict[Axis, int]
LEVELS = 48  # sizes considered per group, about


@dataclass(frozen=True)
class Choice:
    """One group's sizes to choose from, largest first, and the damage of each."""

    group: Group
    sizes: npt.NDArray[np.int64]
    damage: Array


def choice(group: Group, damage: Array, align: int, floor: float) -> Choice:
    """Aligned sizes from the whole group to its floor; `damage[k]` is that of removing k entries."""
    step = alignment(group, align)
    least = max(step, group.least, int(np.ceil(floor * group.size / step)) * step)
    coarse = step * max(1, group.size // (step * LEVELS))
    sizes = np.array([group.size, *range((group.size - 1) // step * step, least - 1, -coarse)])
    return Choice(group, sizes, np.maximum.accumulate(damage[group.size - sizes]))


def allocate(choices: Sequence[Choice], limits: Sequence[Limit]) -> Kept:
    """Sizes of all groups within all limits.

    Raises:
        PruneoptError: not even the floors of all groups are within the limits.
    """
    state = _State([_trimmed(c, limits) for c in choices], [Tally(limit) for limit in limits])
    while not state.fits():
        if not state.shrink():
            raise unmet(state.tallies)
    while state.grow():
        pass
    return {c.group.atom: int(c.sizes[i]) for c, i in zip(state.choices, state.at, strict=True)}


def _trimmed(each: Choice, limits: Sequence[Limit]) -> Choice:
    """The choice without the sizes that a measured cost speaks against."""
    sizes = worthwhile(each.group.atom, each.sizes.tolist(), limits)
    keep = np.isin(each.sizes, sizes)
    return Choice(each.group, each.sizes[keep], each.damage[keep])


def _over(tally: Tally) -> float:
    return tally.total - tally.limit.most * (1 + 1e-12)


class _State:
    """Where each group stands on its curve."""

    def __init__(self, choices: Sequence[Choice], tallies: Sequence[Tally]) -> None:
        self.choices = choices
        self.tallies = tallies
        self.at = [0] * len(choices)

    def fits(self) -> bool:
        return all(_over(t) <= 0 for t in self.tallies)

    def shrink(self) -> bool:
        """Take the step of least damage per cost saved; False where no step is left.

        A step goes to the next corner of the hull, or halts where the budget is met on the way.
        """
        best: tuple[float, int, int] | None = None
        for which, each in enumerate(self.choices):
            i = self.at[which]
            rate = self._saving(which)
            if i + 1 == len(each.sizes) or rate <= 0:
                continue
            slopes = (each.damage[i + 1 :] - each.damage[i]) / (rate * (each.sizes[i] - each.sizes[i + 1 :]))
            corner = int(np.argmin(slopes))
            if best is None or slopes[corner] < best[0]:
                best = float(slopes[corner]), which, i + 1 + corner
        if best is None:
            return False
        _, which, corner = best
        for i in range(self.at[which] + 1, corner + 1):
            self._move(which, i)
            if self.fits():
                break
        return True

    def grow(self) -> bool:
        """Give back the step that undoes most damage per cost and still fits; False where none does."""
        gains: list[tuple[float, int]] = []
        for which, each in enumerate(self.choices):
            i = self.at[which]
            if i:
                before = self._excess()
                self._move(which, i - 1)
                gain = (each.damage[i] - each.damage[i - 1]) / max(self._excess() - before, 1e-30)
                if self.fits():
                    gains.append((-float(gain), which))
                self._move(which, i)
        if not gains:
            return False
        which = min(gains)[1]
        self._move(which, self.at[which] - 1)
        return True

    def _saving(self, which: int) -> float:
        """Cost saved per entry that the group gives now, in shares of the limits that do not hold."""
        each, i = self.choices[which], self.at[which]
        if i + 1 == len(each.sizes):
            return 0.0
        before = self._excess()
        self._move(which, i + 1)
        after = self._excess()
        self._move(which, i)
        return (before - after) / float(each.sizes[i] - each.sizes[i + 1])

    def _excess(self) -> float:
        """The costs in shares of their limits; those that hold count a little, for the sake of `grow`."""
        return sum(t.pressure / t.limit.most * (1.0 if _over(t) > 0 else 1e-3) for t in self.tallies)

    def _move(self, which: int, i: int) -> None:
        self.at[which] = i
        each = self.choices[which]
        for tally in self.tallies:
            tally.set({each.group.atom: int(each.sizes[i])})
