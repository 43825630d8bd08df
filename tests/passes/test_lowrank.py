"""Two thinner maps for one: parameters, proof, and what the activations are for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import pruneopt as po
from pruneopt.errors import PruneoptError, UsageError
from tests import models
from tests.sparsity.test_sparsify import data, gemms, moved, weights


def entry(result: po.Result) -> dict[str, Any]:
    found: dict[str, Any] = next(p for p in result.report["passes"] if p["pass"] == "lowrank")
    return found


@pytest.mark.parametrize("net", [models.transformer, models.convnet, gemms])
def test_half_of_the_parameters_and_proved(net: Any) -> None:
    model = models.loaded(net())
    result = po.prune(model, passes="lowrank{ratio=0.5}", calib=data(model), timed=False)
    assert entry(result)["equivalence"]["max_rel_error"] < 1e-4
    stored = weights(result.model)
    for layer in entry(result)["layers"]:
        _, outputs, features = layer["shape"]
        assert layer["rank"] * (outputs + features) <= 0.5 * outputs * features
        assert layer["name"] not in stored
    assert result.report["output"]["params"] < 0.6 * result.report["input"]["params"]


def test_factors_of_half_precision_are_proved_as_they_are() -> None:
    result = po.prune(models.loaded(models.halved(gemms())), passes="lowrank{ratio=0.5}", timed=False)
    assert entry(result)["equivalence"]["max_rel_error"] < 1e-5
    assert {w.dtype for w in weights(result.model).values() if w.dtype.kind == "f"} == {np.dtype(np.float16)}


def narrow() -> po.Model:
    """A weight of full rank, applied to data of rank 8."""
    b = models.Builder()
    b.node("MatMul", "x", b.weight(64, 64), outputs=["y"])
    return models.loaded(b.model({"x": ["n", 64]}, {"y": ["n", 64]}))


def test_directions_that_the_data_has_are_kept() -> None:
    model = narrow()
    rng = np.random.default_rng(0)
    basis = rng.standard_normal((8, 64))
    batches = [{"x": (rng.standard_normal((128, 8)) @ basis).astype(np.float32)} for _ in range(4)]
    seen = po.prune(model, passes="lowrank{ratio=0.3}", calib=batches, timed=False)
    blind = po.prune(model, passes="lowrank{ratio=0.3}", timed=False)
    assert entry(seen)["layers"][0]["rank"] == 8
    assert moved(seen) < 0.02
    assert moved(blind) > 0.3


def test_nothing_to_factor() -> None:
    model = narrow()
    with pytest.raises(PruneoptError, match="factored"):
        po.prune(model, passes="lowrank{only=nothing}", timed=False)
    with pytest.raises(UsageError, match="ratio"):
        po.prune(model, passes="lowrank{ratio=1}", timed=False)
