"""What an unprobed group does lies between its neighbours, and does not hang on how large errors look."""

from __future__ import annotations

import numpy as np
import pytest

from pruneopt.analysis.groups import find_groups
from pruneopt.analysis.infer import analyse
from pruneopt.api import make_context
from pruneopt.passes.planning.curves import Curve
from pruneopt.passes.planning.kinds import kinds_of
from pruneopt.passes.planning.probe import Effort, Worth, between
from tests import models


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
