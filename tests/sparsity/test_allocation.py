"""Shares of zeros per layer: they add up, and go where they do less harm."""

from __future__ import annotations

from itertools import product
from math import prod
from typing import Any

import numpy as np
import pytest

import pruneopt as po
from pruneopt.analysis.infer import analyse
from pruneopt.api import make_context
from pruneopt.passes import sparsify as sparsify_module
from pruneopt.passes.sparsity.allocation import allocate
from pruneopt.passes.sparsity.layers import find_layers, shape
from pruneopt.passes.statistics.consumers import Consumer
from tests import models
from tests.sparsity.test_sparsify import data, entry, moved


def layers() -> list[Consumer]:
    model = models.loaded(models.transformer(layers=1))
    return list(find_layers(analyse(model, make_context(model).observation(model)), "*", ()).chosen)


def total(shares: dict[Consumer, float]) -> float:
    return sum(s * prod(shape(c)) for c, s in shares.items()) / sum(prod(shape(c)) for c in shares)


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.8])
def test_shares_add_up(sparsity: float) -> None:
    levels = list(np.linspace(0, 0.9, 10))
    rng = np.random.default_rng(0)
    harm = {c: np.cumsum(np.sort(rng.random(10))) for c in layers()}
    assert total(allocate(harm, levels, sparsity)) == pytest.approx(sparsity)


def test_the_best_of_all_choices() -> None:
    """Against trying everything, for layers of one size and convex harm."""
    rng = np.random.default_rng(1)
    levels = [0.0, 0.25, 0.5, 0.75]
    same = [c for c in layers() if shape(c) == (1, 64, 64)][:4]
    harm = {c: np.concatenate([[0.0], np.cumsum(np.sort(rng.random(3)))]) for c in same}
    found = allocate(harm, levels, 0.5)
    reached = sum(float(np.interp(found[c], levels, h)) for c, h in harm.items())
    tried = [
        sum(h[i] for h, i in zip(harm.values(), picks, strict=True))
        for picks in product(range(4), repeat=4)
        if sum(levels[i] for i in picks) == 2.0
    ]
    assert reached == pytest.approx(min(tried))


def test_all_or_nothing() -> None:
    harm = {c: np.array([0.0, float(i)]) for i, c in enumerate(layers())}
    found = allocate(harm, [0.0, 0.5], 0.25)
    assert set(found.values()) == {0.0, 0.5}
    assert total(found) >= 0.25
    assert next(iter(found.values())) == 0.5  # the least harm comes first


def test_zeros_go_where_they_do_less_harm() -> None:
    """A layer whose output is scaled down to next to nothing takes more zeros, and the outputs move less."""
    b = models.Builder()
    loud = b.node(
        "MatMul", b.node("Relu", b.node("MatMul", "x", b.weight(64, 64, name="loud"))), b.weight(64, 64)
    )
    quiet = b.node("MatMul", "x", b.weight(64, 64, name="quiet"))
    b.node("Add", loud, b.node("Mul", quiet, b.value(0.01, np.float32)), outputs=["y"])
    model = models.loaded(b.model({"x": ["n", 64]}, {"y": ["n", 64]}))
    cut = "sparsify{sparsity=0.5, allocation="
    even, fair = (
        po.prune(model, passes=f"{cut}{how}}}", calib=data(model), timed=False)
        for how in ("uniform", "measured")
    )
    shares = {each["name"]: each["sparsity"] for each in entry(fair)["layers"]}
    assert shares["quiet"] > 0.7
    assert shares["loud"] < 0.5
    assert entry(fair)["sparsity"] == pytest.approx(0.5, abs=0.01)
    assert moved(fair) < 0.9 * moved(even)


def test_refitting_methods_measure_by_default() -> None:
    model = models.loaded(models.transformer(layers=1))

    def spread(cut: str, calibrated: bool = True) -> int:
        calib = data(model) if calibrated else None
        result = po.prune(model, passes=cut, calib=calib, timed=False)
        return len({round(each["sparsity"], 1) for each in entry(result)["layers"]})

    assert spread("sparsify{sparsity=0.5}") > 1
    assert spread("sparsify{sparsity=0.5, allocation=uniform}") == 1
    assert spread("sparsify{sparsity=0.5, method=wanda}") == 1
    assert spread("sparsify{sparsity=0.5}", calibrated=False) == 1
    assert spread("sparsify{pattern=2:4}") == 1


def test_measured_shares_that_do_harm_unforeseen_are_compared_with_equal_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of both, the one is taken that moves outputs less; shares that were asked for are not called into question."""
    monkeypatch.setattr(sparsify_module, "measured", wrong_way_round)
    model = models.loaded(models.transformer(layers=1))
    for text, compared in (("sparsity=0.5", True), ("sparsity=0.5, allocation=measured", False)):
        said = entry(po.prune(model, passes=f"sparsify{{{text}}}", calib=data(model), timed=False))
        assert ("rivals" in said) == compared
        assert said.get("chosen") == ("uniform" if compared else None)
        assert said["sparsity"] == pytest.approx(0.5, abs=0.01)


def wrong_way_round(model: Any, layers: Any, sparsity: float, *_: Any) -> tuple[dict[Any, float], float]:
    """All zeros in the first half of the weights, and no harm foreseen."""
    sizes = np.array([prod(shape(layer)) for layer in layers], float)
    before = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    shares = np.clip((sparsity * sizes.sum() - before) / sizes, 0, 1)
    return dict(zip(layers, map(float, shares), strict=True)), 0.0
