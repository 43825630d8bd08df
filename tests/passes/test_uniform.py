"""The plan without data: budgets are met, used, and said to be impossible when they are."""

from __future__ import annotations

import pytest

from pruneopt import api
from pruneopt.analysis.groups import Group, find_groups
from pruneopt.analysis.infer import Analysis, analyse
from pruneopt.errors import PruneoptError
from pruneopt.passes.planning.costs import limits
from pruneopt.passes.planning.uniform import leaders, share, within
from tests import models


def study(layers: int = 2) -> tuple[Analysis, list[Group]]:
    model = models.loaded(models.transformer(layers))
    analysis = analyse(model, api.make_context(model).observation(model))
    return analysis, [g for g in find_groups(analysis) if not g.coupled]


def test_one_group_of_each_product_leads() -> None:
    _, groups = study()
    led = leaders(groups)
    assert sorted({g.size for g in groups}) == [4, 16, 256]  # heads, head widths, neurons
    assert sorted({g.size for g in led}) == [16, 256]


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.9])
def test_a_share_is_rounded_to_aligned_widths(ratio: float) -> None:
    _, groups = study()
    for group in groups:
        kept = share(groups, ratio, align=8, floor=0.1)[group.atom]
        assert 1 <= kept <= group.size
        assert group.size < 32 or kept % 8 == 0


@pytest.mark.parametrize("budget", [0.3, 0.5, 0.77, 0.95])
@pytest.mark.parametrize("name", ["macs", "params", "bytes"])
def test_a_budget_is_met_and_used(name: str, budget: float) -> None:
    analysis, groups = study()
    (limit,) = limits(analysis, {name: budget})
    kept = within(groups, [limit], align=8, floor=0.05)
    (after,) = limits_at(analysis, name, kept)
    assert 0.99 * limit.most <= after <= limit.most


def limits_at(analysis: Analysis, name: str, kept: object) -> list[float]:
    from pruneopt.analysis.cost import CostModel

    return [getattr(CostModel(analysis, -1).all(kept), name)]  # type: ignore[arg-type]


def test_all_of_several_budgets_hold() -> None:
    analysis, groups = study()
    both = limits(analysis, {"macs": 0.7, "params": 0.5})
    kept = within(groups, both, align=8, floor=0.05)
    for limit in both:
        assert limits_at(analysis, limit.name, kept)[0] <= limit.most


def test_the_impossible_is_said_with_the_least_share() -> None:
    analysis, groups = study()
    with pytest.raises(PruneoptError, match="cannot go below") as error:
        within(groups, limits(analysis, {"macs": 0.001}), align=8, floor=0.1)
    assert 0 < error.value.details["least"]["macs"] < 1  # type: ignore[index]
