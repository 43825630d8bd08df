"""The allocation is close to the best of all plans, and says what cannot be met."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest

from pruneopt.analysis.axes import Axis
from pruneopt.analysis.groups import Group
from pruneopt.errors import PruneoptError
from pruneopt.passes.planning.allocate import Choice, allocate, choice
from pruneopt.passes.planning.probe import Worth
from pruneopt.passes.planning.tally import Limit, Volume


def chain(count: int, size: int) -> tuple[list[Group], Limit]:
    """Groups in a row: costs are products of neighbours, as in a stack of convolutions."""
    groups = [Group(f"g{i}", Axis((size,)), (), 1, frozenset()) for i in range(count)]
    ends = [Axis((size,)), *(g.atom for g in groups), Axis((size,))]
    terms = [Volume((a, b)) for a, b in pairwise(ends)]
    return groups, Limit("macs", terms, float(len(terms) * size * size), 0.5)


def cost(sizes: tuple[int, ...], size: int) -> int:
    ends = (size, *sizes, size)
    return sum(a * b for a, b in pairwise(ends))


def total(choices: list[Choice], sizes: tuple[int, ...]) -> float:
    return sum(float(c.damage[list(c.sizes).index(n)]) for c, n in zip(choices, sizes, strict=True))


@pytest.mark.parametrize("seed", range(5))
def test_close_to_the_best_of_all_plans(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups, limit = chain(3, 16)
    curves = [np.cumsum(np.r_[0, np.sort(rng.random(16) ** 3)]) * rng.random() for _ in groups]
    choices = [choice(g, c, 1, 0.1) for g, c in zip(groups, curves, strict=True)]
    plans = product(*(c.sizes.tolist() for c in choices))
    best = min(total(choices, plan) for plan in plans if cost(plan, 16) <= limit.most)
    kept = allocate(choices, [limit])
    found = tuple(kept[g.atom] for g in groups)
    assert cost(found, 16) <= limit.most
    assert total(choices, found) <= 1.25 * best


def test_what_cannot_be_met_is_said() -> None:
    groups, limit = chain(2, 8)
    choices = [choice(g, np.arange(9.0), 1, 0.9) for g in groups]
    with pytest.raises(PruneoptError, match="macs cannot go below"):
        allocate(choices, [limit])


def test_all_budgets_hold() -> None:
    groups, limit = chain(2, 8)
    choices = [choice(g, np.arange(9.0), 1, 0.1) for g in groups]
    second = Limit("params", [Volume((groups[0].atom,))], 8.0, 0.25)
    kept = allocate(choices, [limit, second])
    assert kept[groups[0].atom] <= 2
    assert cost((kept[groups[0].atom], kept[groups[1].atom]), 8) <= limit.most


@pytest.mark.parametrize(("damages", "power"), [((0.1, 0.3), 1.5850), ((0.1, 0.15), 1.0), ((0.1, 9.0), 2.0)])
def test_damage_goes_on_as_steeply_as_it_was_measured(damages: tuple[float, float], power: float) -> None:
    worth = Worth((0.2, 0.4), damages)
    at = worth.at(np.array([0.0, 0.1, 0.2, 0.4, 0.8]))
    np.testing.assert_allclose(at[:4], [0.0, damages[0] / 2, *damages], rtol=1e-12)
    assert at[4] == pytest.approx(damages[1] * 2**power, rel=1e-4)


def test_one_measurement_goes_on_in_proportion() -> None:
    np.testing.assert_allclose(Worth((0.2,), (0.1,)).at(np.array([0.1, 0.4])), [0.05, 0.2])
