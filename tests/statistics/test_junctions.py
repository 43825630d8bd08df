"""Rows that a norm shortens count less, and layers under no norm have rows that count alike."""

from __future__ import annotations

import numpy as np

from pruneopt.analysis.infer import analyse
from pruneopt.api import make_context
from pruneopt.passes.statistics.consumers import find_consumers
from pruneopt.passes.statistics.junctions import Junction, junctions_of
from tests import models


def test_long_rows_count_by_the_inverse_of_their_square() -> None:
    totals = np.ones((1, 5, 3), np.float32)
    totals[0, 0] *= 100
    totals[0, 4] = 0
    weights = Junction("y", None, under_norm=True).weights(totals)
    assert weights is not None
    np.testing.assert_allclose(weights, [1e-4, 1, 1, 1, 1e3])
    assert Junction("y", None).weights(totals) is None


def test_what_writes_to_a_stream_is_under_a_norm_and_what_reads_it_is_not() -> None:
    model = models.loaded(models.transformer())
    analysis = analyse(model, make_context(model).observation(model))
    under = junctions_of(find_consumers(analysis), analysis)
    assert all((j.skip is not None) <= j.under_norm for j in under.values())
    assert {j.under_norm for j in under.values()} == {True, False}
