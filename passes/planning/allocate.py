"""The plan with data: sizes of all groups that do the least harm within the budgets.

Minimise the sum of the groups' damage, each a function of its own size, subject to costs that are sums of
products of sizes. On the lower convex hulls of the damage curves the greedy steps of least damage per cost
trace the Lagrangian optimum; what the last step overshoots is given back. Where steps are coarse (a residual
width is part of every cost) plans without such a step, or with one more, are tried as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pruneopt.analysis.axes import Axis
from pruneopt.analysis.groups import Group, alignment
from pruneopt.arrays import Array
from pruneopt.passes.planning.tally import Limit, Tally, unmet, worthwhile

Kept = dict[Axis, int]
LEVELS = 48  # sizes considered per group, about
COARSE = 8  # groups of the largest steps, of which other sizes are tried
ROUNDS = 3


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
    if not state.settle():
        raise unmet(state.tallies)
    state.polish()
    return {c.group.atom: int(c.sizes[i]) for c, i in zip(state.choices, state.at, strict=True)}


def trace(choices: Sequence[Choice], limits: Sequence[Limit], points: int = 24) -> list[dict[str, float]]:
    """The way from the whole model to all floors, in steps of least damage per cost of the first limit.

    Returns:
        About so many points: of each limit the share kept, by its name, and the `damage` predicted.
    """
    state = _State(choices, [Tally(replace(limit, share=1e-9)) for limit in limits[:1]])
    others = [Tally(limit) for limit in limits]
    found: list[dict[str, float]] = []
    while True:
        kept = {c.group.atom: int(c.sizes[i]) for c, i in zip(choices, state.at, strict=True)}
        shares = {t.limit.name: t.set(kept) / (t.limit.whole or 1.0) for t in others}
        first = shares[limits[0].name]
        if not found or first <= found[-1][limits[0].name] - 1 / points:
            damage = sum(float(c.damage[i]) for c, i in zip(choices, state.at, strict=True))
            found.append(shares | {"damage": damage})
        if not state.shrink():
            return found


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

    def settle(self, locked: int = -1) -> bool:
        """Shrink until the budgets hold, then grow again while they do; False where they cannot be met."""
        while not self.fits():
            if not self.shrink(locked):
                return False
        while self.grow(locked):
            pass
        return True

    def polish(self) -> None:
        """Other sizes of the groups with the largest steps, one group at a time, as long as the damage falls."""
        coarse = self._coarsest()
        for _ in range(ROUNDS):
            before = self.harm()
            for which in coarse:
                for i in dict.fromkeys((self.at[which] - 1, self.at[which] + 1, 0)):
                    self._try(which, i)
            if self.harm() >= before:
                return

    def harm(self) -> float:
        """Damage of the current sizes."""
        return float(sum(c.damage[i] for c, i in zip(self.choices, self.at, strict=True)))

    def _try(self, which: int, i: int) -> None:
        if i == self.at[which] or not 0 <= i < len(self.choices[which].sizes):
            return
        old, before = list(self.at), self.harm()
        self._move(which, i)
        if self.settle(which) and self.harm() < before * (1 - 1e-9):
            return
        for each, place in enumerate(old):
            if self.at[each] != place:
                self._move(each, place)

    def _coarsest(self) -> list[int]:
        """The groups one step of which changes the costs most."""
        steps = []
        for which, each in enumerate(self.choices):
            i = self.at[which]
            other = i + 1 if i + 1 < len(each.sizes) else i - 1
            if other >= 0:
                before = self._excess()
                self._move(which, other)
                steps.append((-abs(self._excess() - before), which))
                self._move(which, i)
        return [which for _, which in sorted(steps)[:COARSE]]

    def shrink(self, locked: int = -1) -> bool:
        """Take the step of least damage per cost saved; False where no step is left.

        A step goes to the next corner of the hull, or halts where the budget is met on the way. What it saves
        beyond the budget counts for nothing: fine steps go the last part of the way.
        """
        need = self._need()
        best: tuple[float, int, int] | None = None
        for which, each in enumerate(self.choices):
            i = self.at[which]
            rate = self._saving(which)
            if which == locked or i + 1 == len(each.sizes) or rate <= 0:
                continue
            saved = np.minimum(rate * (each.sizes[i] - each.sizes[i + 1 :]), need)
            slopes = (each.damage[i + 1 :] - each.damage[i]) / saved
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

    def grow(self, locked: int = -1) -> bool:
        """Give back the step that undoes most damage per cost and still fits; False where none does."""
        gains: list[tuple[float, int]] = []
        for which, each in enumerate(self.choices):
            i = self.at[which]
            if i and which != locked:
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

    def _need(self) -> float:
        """What is still to be saved, in shares of the limits."""
        return sum(max(0.0, t.pressure / t.limit.most - 1) for t in self.tallies if _over(t) > 0) or 1.0

    def _excess(self) -> float:
        """The costs in shares of their limits; those that hold count a little, for the sake of `grow`."""
        return sum(t.pressure / t.limit.most * (1.0 if _over(t) > 0 else 1e-3) for t in self.tallies)

    def _move(self, which: int, i: int) -> None:
        self.at[which] = i
        each = self.choices[which]
        for tally in self.tallies:
            tally.set({each.group.atom: int(each.sizes[i])})
