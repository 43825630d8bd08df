"""Layers that mend what is before them: least squares towards the original's stream, chosen by held-out rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import pruneopt as po
from pruneopt.analysis.infer import analyse
from pruneopt.api import make_context
from pruneopt.passes.sparsity import aims
from pruneopt.passes.sparsity.aims import Aims, Targets, pooled
from pruneopt.passes.sparsity.layers import find_layers
from pruneopt.passes.statistics.moments import Moments
from pruneopt.passes.statistics.stream import Stream
from tests import models
from tests.sparsity.test_sparsify import data, entry, moved

Array = Any


def moments(rows: Array, targets: Array) -> Moments:
    found = Moments()
    found.add(rows[None].astype(np.float32), targets[None].astype(np.float32))
    return found


def drawn(count: int, noise: float, seed: int = 0) -> tuple[Array, Array, Array]:
    """Rows, targets that a matrix makes of them and a bias, and the matrix."""
    rng = np.random.default_rng(seed)
    matrix = np.random.default_rng(99).standard_normal((5, 12))
    rows = rng.standard_normal((count, 12)) + 0.7
    return rows, rows @ matrix.T + 3 + noise * rng.standard_normal((count, 5)), matrix


def test_moments_of_two_sets_together() -> None:
    a, b = drawn(300, 1.0)[:2], drawn(90, 1.0, 1)[:2]
    both = [np.concatenate(pair) for pair in zip(a, b, strict=True)]
    found, wanted = pooled(moments(*a), moments(*b)), moments(*both)
    for name in ("mean", "target_mean", "covariance", "cross"):
        assert np.allclose(getattr(found, name), getattr(wanted, name), atol=1e-4)


def test_the_start_goes_towards_the_targets() -> None:
    fit, held = (drawn(n, 0.1, s) for n, s in ((400, 0), (100, 1)))
    targets = Targets(moments(*fit[:2]), moments(*held[:2]))
    wrong = fit[2] + 0.5
    found = targets.start(wrong[None], centred=True)[0]
    assert np.abs(found - fit[2]).max() < 0.05
    assert np.abs(wrong - fit[2]).max() == pytest.approx(0.5)


def test_targets_that_say_nothing_change_nothing() -> None:
    """Noise fits on one set of rows only: the held-out ones choose the weight as it is."""
    fit, held = (drawn(n, 0.0, s) for n, s in ((14, 0), (100, 1)))
    rng = np.random.default_rng(2)
    noisy = fit[1] + 20 * rng.standard_normal(fit[1].shape)
    targets = Targets(moments(fit[0], noisy), moments(*held[:2]))
    assert targets.start(fit[2][None], centred=True) == pytest.approx(fit[2][None])


def perceptron() -> onnx.ModelProto:
    """No residual stream: only the last layer has a target, the model's output."""
    b = models.Builder()
    x = "x"
    for wide, narrow in ((48, 64), (64, 64), (64, 64)):
        x = b.node("Relu", b.node("Gemm", x, b.weight(narrow, wide), b.weight(narrow), transB=1))
    b.node("Gemm", x, b.weight(32, 64), b.weight(32), transB=1, outputs=["y"])
    return b.model({"x": ["n", 48]}, {"y": ["n", 32]})


@pytest.mark.parametrize("net", [models.transformer, models.convnet, perceptron])
@pytest.mark.parametrize("method", ["sparsegpt", "admm"])
def test_outputs_move_less(net: Any, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.loaded(net())
    cut = f"sparsify{{sparsity=0.6, method={method}}}"
    calib = data(model, 100 if net is perceptron else 10)
    aimed = po.prune(model, passes=cut, calib=calib, timed=False)
    monkeypatch.setattr(aims, "HELD", 1 << 20)
    alone = po.prune(model, passes=cut, calib=calib, timed=False)
    assert moved(aimed) < 0.97 * moved(alone)
    shares = [[each["sparsity"] for each in entry(r)["layers"]] for r in (aimed, alone)]
    assert shares[0] == shares[1]


def test_methods_that_refit_nothing_have_no_targets() -> None:
    model = models.loaded(models.transformer())
    context = make_context(model, data(model, 10))
    analysis = analyse(model, context.observation(model))
    layers = find_layers(analysis, "*", ()).chosen
    assert Aims(analysis, (), context, context.calibration).dense is None
    found = Aims(analysis, layers, context, context.calibration)
    stream = Stream(model.copy(), context, context.calibration)
    first = next(c for c in layers if c.name in found.junctions)
    assert found.junction(first, stream) is None  # its skip is still to become sparse
    writers = []
    for each in layers:
        if found.junction(each, stream) is not None:
            writers.append(each.name)
        found.done(each)
    assert first.name in writers
    assert len(writers) < len(layers)
