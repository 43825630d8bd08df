"""The plan without data for budgets in time: where harm is not known, it is taken to go with the products that go.

To halve a group does as much harm whatever is left of it, in proportion to the multiply-accumulates that it is part of:

    harm = work * log(size / kept)

So groups whose time is not in their products give more, small steps everywhere go before large ones anywhere, and what
the kernels' times say at the sizes around counts, not only what they say of the whole model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pruneopt.analysis.groups import Group
from pruneopt.passes.planning.allocate import Choice, allocate, choice
from pruneopt.passes.planning.line import Kept
from pruneopt.passes.planning.tally import Limit, Tally

CLIP = 5.0  # a group's work counts as at least a fifth, and at most five times, of its share of the time
LAST = 0.5  # an entry that is left of a group from which all has gone, for the sake of the logarithm


def spared(groups: Sequence[Group], macs: Limit, limits: Sequence[Limit], align: int, floor: float) -> Kept:
    """Sizes within all limits for which the fewest multiply-accumulates go, the later ones dearer.

    Raises:
        PruneoptError: not even the floors of all groups are within the limits.
    """
    time = next(each for each in limits if each.uneven)
    tallies = Tally(macs), Tally(time)
    return allocate([_choice(g, *tallies, align, floor) for g in groups], limits)


def _choice(group: Group, macs: Tally, time: Tally, align: int, floor: float) -> Choice:
    work, spent = _saving(macs, group), _saving(time, group)
    worth = float(np.clip(work, spent / CLIP, max(spent, 0.0) * CLIP)) if spent > 0 else work
    left = np.maximum(group.size - np.arange(group.size + 1), LAST)
    return choice(group, worth * np.log(group.size / left), align, floor)


def _saving(tally: Tally, group: Group) -> float:
    """Share of the cost that goes with half of a group, all others whole."""
    before = tally.total
    after = tally.set({group.atom: max(1, group.size // 2)})
    tally.set({group.atom: group.size})
    return (before - after) / (before or 1.0)
