"""Activations are found by their shape, and layers are refitted to what an activation makes of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pruneopt.api import make_context
from pruneopt.passes.statistics import through
from pruneopt.passes.statistics.activations import Activation, activation_of
from pruneopt.passes.statistics.leastsquares import Refit, refit
from pruneopt.passes.statistics.moments import Moments
from pruneopt.passes.statistics.through import Sample, Through
from tests import models

Node = Callable[[models.Builder], str]


def relu(b: models.Builder) -> str:
    return b.node("Relu", "t0")


def swish(b: models.Builder) -> str:
    return b.node("Mul", "t0", b.node("Sigmoid", "t0"))


def clipped_after_scaling(b: models.Builder) -> str:
    two = b.value(2.0, np.float32)
    return b.node("Clip", b.node("Mul", "t0", two), b.value(0.0, np.float32), b.value(6.0, np.float32))


def per_channel(b: models.Builder) -> str:
    return b.node("PRelu", "t0", b.weight(8))


def beside_a_skip(b: models.Builder) -> str:
    return b.node("Add", "t0", b.node("MatMul", b.node("Relu", "t0"), b.weight(8, 8)))


def found(node: Node) -> tuple[Activation | None, Callable[[np.ndarray], np.ndarray]]:
    b = models.Builder()
    b.node("MatMul", "x", b.weight(8, 8))
    end = node(b)
    b.node("MatMul", end, b.weight(8, 4), outputs=["y"])
    model = models.loaded(b.model({"x": ["n", 8]}, {"y": ["n", 4]}))
    activation = activation_of(model.graph.tensors()["t0"], model.graph)
    return activation, activation.load(model, make_context(model)) if activation else np.asarray


@pytest.mark.parametrize(
    ("node", "ends", "formula"),
    [
        (relu, "t1", lambda x: np.maximum(x, 0)),
        (swish, "t2", lambda x: x / (1 + np.exp(-x))),
        (clipped_after_scaling, "t1", lambda x: 2 * x),
    ],
)
def test_the_shortest_activation_is_found(
    node: Node, ends: str, formula: Callable[[np.ndarray], np.ndarray]
) -> None:
    activation, apply = found(node)
    assert activation is not None
    assert activation.name == ends
    x = np.linspace(-8, 8, 48, dtype=np.float32).reshape(2, 3, 8)
    np.testing.assert_allclose(apply(x), formula(x), atol=1e-5)


@pytest.mark.parametrize("node", [per_channel, beside_a_skip])
def test_what_is_not_one_function_of_single_numbers_is_none(node: Node) -> None:
    assert found(node)[0] is None


def relu_of(x: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(np.maximum(x, 0))


def test_a_refit_through_a_relu_gives_up_what_the_relu_hides() -> None:
    rng = np.random.default_rng(0)
    seen = rng.standard_normal((1, 4000, 1))
    lost = np.minimum(seen, 0) * rng.uniform(2, 6, seen.shape)  # speaks up only where the ReLU is closed
    rows = np.concatenate([seen, lost], axis=2).astype(np.float32)
    total = rows.sum(2, keepdims=True)
    keep, added = np.array([True, False]), np.full((1, 2), 1e-6)
    fit = Moments()
    fit.add(rows[:, 500:], total[:, 500:])
    weight = refit(np.ones((1, 1, 2)), fit.covariance, fit.cross, added, keep)
    plain = Refit(weight, (fit.target_mean - np.einsum("gof,gf->go", weight, fit.mean)).reshape(-1))
    samples = [
        Sample(rows[:, i : i + 500], None, relu_of(total[:, i : i + 500]), i == 0)
        for i in range(0, 4000, 500)
    ]
    better = Through(samples, relu_of, fit, np.ones(1, bool)).improved(plain, added, keep)
    errors = [float(np.square(samples[0].missing(each, relu_of)).sum()) for each in (plain, better)]
    assert errors[1] < 0.5 * errors[0]
    assert better.weight[0, 0, 1] == 0


def test_a_refit_that_is_right_stays() -> None:
    rows = np.random.default_rng(0).standard_normal((1, 64, 3)).astype(np.float32)
    found = Refit(np.ones((1, 2, 3)), np.zeros(2))
    samples = [Sample(rows, None, relu_of(found.outputs(rows)), held) for held in (False, True)]
    fit = Moments()
    fit.add(rows)
    fitted = Through(samples, relu_of, fit, np.ones(2, bool))
    assert fitted.improved(found, np.full((1, 3), 1e-3), np.ones(3, bool)) is found


def test_samples_are_thinned_to_what_memory_may_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.arange(24, dtype=np.float32).reshape(1, 12, 2)
    sample = Sample(rows, None, rows[:, :, :1], False)
    assert sample.thinned(4) is sample
    monkeypatch.setattr(through, "MOST", 200)  # of 4 * 96 bytes
    found = sample.thinned(4)
    np.testing.assert_array_equal(found.rows, rows[:, ::2])
    np.testing.assert_array_equal(found.wanted, rows[:, ::2, :1])
    assert found.skip is None
