"""Damage at the outputs: shares of a variance, and divergences of distributions."""

from __future__ import annotations

import numpy as np
import pytest

from pruneopt.passes.statistics.damage import BLOCK, damage


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
