"""Budgets in time without data: products are spared, evenly where time goes with them."""

from __future__ import annotations

import pytest

from pruneopt.analysis.axes import Axis
from pruneopt.analysis.groups import Group
from pruneopt.errors import PruneoptError
from pruneopt.passes.planning.spared import spared
from pruneopt.passes.planning.tally import Limit, Tally, Volume

FIRST, SECOND = Axis((64,)), Axis((64,))
GROUPS = [Group(name, atom, (), 1, frozenset()) for name, atom in (("a", FIRST), ("b", SECOND))]
MACS = Limit("macs", [Volume((FIRST,)), Volume((SECOND,))], 128.0, 1.0)


def kept(first: float, second: float, share: float = 0.5, macs: Limit = MACS) -> tuple[int, int]:
    """What stays of both, where an entry of each takes so long."""
    terms = [Volume((FIRST,), first), Volume((SECOND,), second)]
    time = Limit("latency", terms, 64 * (first + second), share, uneven=True)
    found = spared(GROUPS, macs, [time], 1, 0.05)
    tally = Tally(time)
    assert 0.95 * time.most < tally.set(found) <= time.most
    return found[FIRST], found[SECOND]


def test_equal_groups_give_the_same() -> None:
    first, second = kept(1, 1)
    assert abs(first - second) <= 2


@pytest.mark.parametrize("slow", [1.5, 3.0])
def test_what_takes_long_for_its_products_gives_more(slow: float) -> None:
    first, second = kept(slow, 1)
    assert first / second == pytest.approx(1 / slow, rel=0.15)


def test_a_group_without_products_is_not_free() -> None:
    first, second = kept(1, 1, macs=Limit("macs", [Volume((SECOND,))], 64.0, 1.0))
    assert 4 < first < second  # its floor is 4


def test_all_budgets_hold_or_it_is_said() -> None:
    with pytest.raises(PruneoptError, match="cannot be met"):
        kept(1, 1, share=0.01)
