"""The search for what is free: few steps where the trade-off is known, and never beyond the tolerance."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import pruneopt as po
from pruneopt.passes import tolerance
from tests import models


def _searched(moved: Callable[[float], float], entry: dict[str, object]) -> tuple[list[float], float]:
    """(shares tried, the smallest that was within 0.01)."""
    search = tolerance._Search(0.01)
    tried, best = [], 1.0
    while search.goes_on():
        tried.append(search.at)
        best = search.at if moved(search.at) <= 0.01 else best
        search.take(moved(search.at), entry)
    return tried, best


@pytest.mark.parametrize("scale", [1e-5, 1.0, 1e4])
@pytest.mark.parametrize("free", [0.2, 0.45, 0.8])
def test_a_predicted_trade_off_saves_steps(free: float, scale: float) -> None:
    def damage(share: float) -> float:
        return float(np.exp(-12 * share))

    shares = np.linspace(1.0, 0.05, 24)
    trade_off = [{"macs": s, "damage": scale * damage(s)} for s in shares]
    tried, best = _searched(lambda s: 0.01 * (damage(s) / damage(free)) ** 0.4, {"trade_off": trade_off})
    assert len(tried) <= 4
    assert free <= best <= free + 1 / 16


def test_without_a_prediction_it_halves() -> None:
    tried, best = _searched(lambda s: 0.009 * (0.3 / s) ** 0.01 if s >= 0.3 else 1.0, {})
    assert tried[0] == 0.5
    assert best == 0.5  # near enough to the tolerance
    tried, best = _searched(lambda s: 0.0 if s >= 0.3 else 1.0, {})
    assert len(tried) <= 6
    assert 0.3 <= best <= 0.3 + 1 / 32


def test_few_samples_make_it_careful() -> None:
    rng = np.random.default_rng(0)
    dense = [{"y": rng.standard_normal((20, 8)).astype(np.float32)}]
    same = tolerance._distance(dense, [{"y": dense[0]["y"] * np.float32(1.01)}])
    assert same == pytest.approx(0.01, rel=1e-3)  # all move alike: there is no doubt
    found = dense[0]["y"].copy()
    found[0] *= 1.05
    moved = float(np.linalg.norm(found - dense[0]["y"]) / np.linalg.norm(dense[0]["y"]))
    assert 1.3 * moved < tolerance._distance(dense, [{"y": found}]) < 2 * moved
    assert tolerance._distance([{}], [{}]) == float("inf")


def test_the_default_stays_within_the_tolerance_and_few_forwards() -> None:
    model = models.loaded(models.transformer())
    rng = np.random.default_rng(1)
    names = [t.name for t in model.inputs]
    shape = [int(n) if isinstance(n, int) else 6 for n in model.inputs[0].shape]
    calib = [{names[0]: rng.standard_normal(shape).astype(np.float32)} for _ in range(15)]
    result = po.prune(model, tolerance=0.1, calib=calib, timed=False)
    assert all(f["rel_l2"] <= 0.1 for f in result.report["fidelity"].values())
    assert result.report["output"]["macs"] < result.report["input"]["macs"]
    assert sum(p.get("forwards", 0.0) for p in result.report["passes"]) <= 25


def test_batches_that_differ_make_it_careful() -> None:
    """Samples of a batch move alike: twenty of them in two batches say no more than two."""
    rng = np.random.default_rng(0)
    dense = [{"y": rng.standard_normal((10, 400)).astype(np.float32)} for _ in range(2)]
    mixed = np.where(np.arange(10) % 2, 1.02, 1.01).astype(np.float32)[:, None]
    spread = [{"y": each["y"] * mixed} for each in dense]
    apart = [{"y": each["y"] * np.float32(by)} for each, by in zip(dense, (1.01, 1.02), strict=True)]
    assert tolerance._distance(dense, spread) < 0.02
    assert tolerance._distance(dense, apart) > 0.03


@pytest.mark.parametrize(("free", "quantile"), [(3, 2.353), (5, 2.015), (10, 1.812), (100, 1.66)])
def test_students_quantile(free: int, quantile: float) -> None:
    assert tolerance._student(free) == pytest.approx(quantile, rel=0.05)
