"""Which ways of a repair are tried: what halves the damage is not called into question."""

from __future__ import annotations

import pytest

from pruneopt.api import make_context
from pruneopt.passes import repair as repair_module
from pruneopt.passes.repair import Repair
from pruneopt.passes.width import Width
from tests import models
from tests.passes.test_calibrated import data


def distances() -> dict[str, float]:
    """What a repair of a transformer at 0.7 of its multiply-accumulates reports."""
    model = models.loaded(models.transformer())
    context = make_context(model, data(model))
    outcome = Width(macs=0.7, plan="uniform").run(model, context)
    context.claim = outcome.claim
    found: dict[str, float] = Repair().run(outcome.model, context).entry["distances"]
    return found


def test_a_way_that_halves_the_damage_is_the_last() -> None:
    found = distances()
    assert found["stream"] <= 0.5 * found["none"]
    assert set(found) == {"none", "stream"}


def test_one_that_does_not_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repair_module, "ENOUGH", 0.0)
    found = distances()
    assert set(found) == {"none", "stream", "self"}
    assert found["stream"] <= found["self"]


def test_only_new_weights_count_as_kept() -> None:
    model = models.loaded(models.transformer())
    context = make_context(model, data(model))
    outcome = Width(macs=0.7, plan="uniform").run(model, context)
    context.claim = outcome.claim
    mended = Repair().run(outcome.model, context).model
    assert repair_module._new_bytes(outcome.model.copy(), outcome.model) == 0
    whole = sum(int(c._values.nbytes) for c in repair_module._constants(mended))
    assert 0 < repair_module._new_bytes(mended, outcome.model) < whole
