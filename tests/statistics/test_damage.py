"""Damage at the outputs: shares of a variance, and divergences of distributions."""

from __future__ import annotations

import numpy as np
import pytest

from pruneopt.passes.statistics.damage import BLOCK, damage, distributions
from tests import models


def test_squared_distance_as_a_share_of_the_variance() -> None:
    rng = np.random.default_rng(0)
    dense = [{"y": (1000 + rng.normal(size=(3, size))).astype(np.float32)} for size in (5, BLOCK + 7)]
    found = [{"y": each["y"] + np.float32(0.5)} for each in dense]
    whole = np.concatenate([each["y"].reshape(-1) for each in dense]).astype(np.float64)
    assert damage(dense, found, set()) == pytest.approx(0.25 / whole.var(), rel=1e-6)


def test_divergence_of_each_row() -> None:
    p, q = np.array([[[0.5, 0.5], [1.0, 0.0]]], np.float32), np.array([[[0.9, 0.1], [1.0, 0.0]]], np.float32)
    wanted = (0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(0.5 / 0.1)) / 2
    assert damage([{"p": p}], [{"p": q}], {"p"}) == pytest.approx(wanted, rel=1e-6)
    assert damage([{"p": p}], [{"p": p}], {"p"}) == 0.0


def test_outputs_without_variance_do_not_divide_by_nothing() -> None:
    same = [{"y": np.ones((2, 3), np.float32)}]
    assert damage(same, same, set()) == 0.0


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("spread", [False, True])
def test_a_softmax_that_is_written_out_is_one_along_the_last_axis(axis: int, spread: bool) -> None:
    b = models.Builder()
    x = b.node("Exp", "x")
    total = b.node("ReduceSum", x, b.value([axis]), keepdims=int(not spread))
    if spread:
        total = b.node("Expand", b.node("Unsqueeze", total, b.value([axis])), b.node("Shape", x))
    b.node("Div", x, total, outputs=["p"])
    b.node("Div", "x", total, outputs=["q"])
    model = models.loaded(b.model({"x": ["n", 4]}, {"p": ["n", 4], "q": ["n", 4]}))
    assert distributions(model.graph) == (set() if axis == 0 else {"p"})
