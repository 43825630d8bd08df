"""A probe runs what lies behind a group, and finds what the whole model would; unprobed groups are like neighbours."""

from __future__ import annotations

import numpy as np
import pytest

from pruneopt.analysis.groups import find_groups
from pruneopt.analysis.infer import analyse
from pruneopt.api import make_context
from pruneopt.passes.planning.curves import Curve
from pruneopt.passes.planning.kinds import kinds_of
from pruneopt.passes.planning.probe import Effort, Probe, Worth, between, first_node, reduced
from pruneopt.passes.statistics.damage import Yardstick, outputs
from pruneopt.passes.statistics.evidence import gather
from tests import models
from tests.passes.test_calibrated import NETS, data


@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_a_group_with_a_huge_output_is_no_freer_than_its_neighbours(scale: float) -> None:
    model = models.loaded(models.transformer(layers=3))
    analysis = analyse(model, make_context(model).observation(model))
    row = [g for g, kind in kinds_of(find_groups(analysis), analysis).items() if kind == "inner"]
    known = {row[0]: Worth((0.5,), (0.01,)), row[2]: Worth((0.1,), (0.04,))}
    curve = Curve(np.arange(row[1].size), scale * np.linspace(0, 1, row[1].size + 1))
    effort = Effort([row[0], row[2]], [], 1, [row])
    found = between(row[1], effort, known, curve)
    assert found.at(curve.error[row[1].size // 4 : row[1].size // 4 + 1])[0] == pytest.approx(0.02)


@pytest.mark.parametrize("name", sorted(NETS))
def test_a_part_of_a_model_tells_what_all_of_it_would(name: str) -> None:
    model = models.loaded(NETS[name]())
    batches = data(model, 4)
    context = make_context(model, batches)
    analysis = analyse(model, context.observation(model))
    groups = sorted(find_groups(analysis), key=lambda g: first_node(g, analysis))
    evidence = gather(analysis, [g.atom for g in groups], context, batches)
    before = context.forwards
    probe = Probe(evidence, context, batches)
    yardstick = Yardstick.of(model.graph, outputs(model, context, batches))
    for group in groups:
        gone = np.arange(group.size // 2)
        whole = outputs(reduced(group, gone, evidence), context, batches)
        expected = yardstick.damage(whole)
        assert expected > 0
        assert probe.damage(group, gone) == pytest.approx(expected, rel=1e-3)
    ran = context.forwards - before - 2 - len(groups)  # what `outputs` ran here and in the probe
    assert len(groups) > 1
    assert 1 < ran < 0.9 * len(groups) + 1
