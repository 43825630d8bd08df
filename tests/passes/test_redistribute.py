"""NViT's proportions under a budget."""

from __future__ import annotations

import numpy as np
import pytest

import pruneopt as po
from pruneopt.analysis.groups import find_groups
from pruneopt.analysis.infer import analyse
from pruneopt.api import make_context
from pruneopt.errors import PruneoptError
from pruneopt.passes.planning.costs import limits
from pruneopt.passes.planning.kinds import kinds_of
from pruneopt.passes.planning.redistribute import redistributed, shares
from pruneopt.passes.simplify import Simplify
from tests import models


def test_the_table_for_four_blocks() -> None:
    model = models.loaded(models.transformer(4))
    context = make_context(model)
    model = Simplify().run(model, context).model
    analysis = analyse(model, context.observation(model))
    groups = find_groups(analysis)
    kinds = kinds_of(groups, analysis)
    found = shares(groups, kinds)
    for kind, base in (("heads", 0.64), ("score", 0.6), ("inner", 0.75)):
        assert [found[g] for g in groups if kinds[g] == kind] == pytest.approx(np.array([1, 2, 2, 1]) * base)
    inner = [g for g in groups if kinds[g] == "inner"]
    kept = redistributed(inner, kinds, limits(analysis, {"macs": 0.7}), 8, 0.1)
    sizes = [kept[g.atom] for g in inner]
    assert sizes[0] == sizes[3] < sizes[1] == sizes[2]
    assert sizes[1] == pytest.approx(2 * sizes[0], abs=8)
    with pytest.raises(PruneoptError, match="cannot be met"):
        redistributed(inner, kinds, limits(analysis, {"macs": 0.1}), 8, 0.1)


def test_width_takes_the_plan() -> None:
    model = models.loaded(models.transformer(4))
    report = po.prune(model, passes="width{plan=redistributed, criterion=l2, macs=0.6}", timed=False).report
    assert 0.59 <= report["output"]["macs"] / report["input"]["macs"] <= 0.6
    assert report["equivalence"]["max_rel_error"] < 1e-5
