"""Streaming moments equal those of all rows at once, and stay exact under a large mean."""

from __future__ import annotations

import numpy as np
import pytest

from pruneopt.passes.statistics.leastsquares import refit, ridge
from pruneopt.passes.statistics.moments import Moments, root


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_moments_of_blocks_equal_those_of_all_rows(offset: float) -> None:
    rng = np.random.default_rng(0)
    rows = (rng.standard_normal((2, 5000, 6)) @ rng.standard_normal((2, 6, 6)) + offset).astype(np.float32)
    targets = rng.standard_normal((2, 5000, 3)).astype(np.float32)
    moments = Moments()
    for i in range(0, 5000, 700):
        moments.add(rows[:, i : i + 700], targets[:, i : i + 700])
    z, y = rows.astype(np.float64), targets.astype(np.float64)
    centred, wanted = z - z.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
    np.testing.assert_allclose(moments.mean, z.mean(1), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(moments.covariance, centred.transpose(0, 2, 1) @ centred / 5000, atol=2e-3)
    np.testing.assert_allclose(moments.cross, wanted.transpose(0, 2, 1) @ centred / 5000, atol=2e-3)


def test_a_row_that_counts_twice_is_there_twice_and_settled_moments_stay() -> None:
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((1, 40, 4)).astype(np.float32)
    once, twice = Moments(), Moments()
    once.add(rows, None, np.array([2.0] * 10 + [1.0] * 30, np.float32))
    twice.add(np.concatenate([rows, rows[:, :10]], axis=1))
    before = once.covariance
    once.settle()
    np.testing.assert_allclose(before, twice.covariance, atol=1e-6)
    np.testing.assert_allclose(once.covariance, before, rtol=1e-6)
    np.testing.assert_allclose(once.mean, twice.mean, atol=1e-6)


def test_roots_are_of_moments_and_of_none_where_numbers_vanish() -> None:
    """Nets of small random weights hand on less and less: E[z^2] is -1e-72 then, after a mean is taken off."""
    rng = np.random.default_rng(4)
    rows = rng.standard_normal((2, 30, 5))
    moment = rows.transpose(0, 2, 1) @ rows / 30
    moment[1] = -1e-72 * np.ones((5, 5))
    lower = root(moment, 1e-3)
    level = np.trace(moment[0]) / 5
    np.testing.assert_allclose(lower[0] @ lower[0].T, moment[0] + 1e-3 * level * np.eye(5), rtol=1e-9)
    np.testing.assert_allclose(lower[1] @ lower[1].T, 1e-3 * np.eye(5), rtol=1e-9)


def test_refit_recovers_what_the_kept_features_can_express() -> None:
    rng = np.random.default_rng(1)
    kept = rng.standard_normal((400, 4))
    rows = np.concatenate([kept, kept @ rng.standard_normal((4, 2))], axis=1)[None]
    weight = rng.standard_normal((1, 3, 6))
    moments = Moments()
    moments.add(rows)
    keep = np.array([True] * 4 + [False] * 2)
    covariance = moments.covariance
    found = refit(weight, covariance, weight @ covariance, ridge(covariance, 1e-6, own=True), keep)
    assert not found[:, :, 4:].any()
    before, after = rows @ weight.transpose(0, 2, 1), rows @ found.transpose(0, 2, 1)
    np.testing.assert_allclose(after - after.mean(1), before - before.mean(1), atol=1e-3)


def test_a_strong_ridge_keeps_the_weights() -> None:
    rng = np.random.default_rng(2)
    covariance = np.cov(rng.standard_normal((5, 100)))[None]
    weight = rng.standard_normal((1, 2, 5))
    keep = np.array([True, True, True, True, False])
    found = refit(weight, covariance, weight @ covariance, ridge(covariance, 1e9, own=True), keep)
    np.testing.assert_allclose(found, weight * keep, atol=1e-6)
