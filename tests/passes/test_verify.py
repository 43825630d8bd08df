"""Fidelity is the same however few outputs are held at a time."""

from __future__ import annotations

import gc
import weakref

import pytest

from pruneopt.api import make_context, prune
from pruneopt.model import Model
from pruneopt.passes import verify
from pruneopt.passes.base import Outcome
from pruneopt.passes.context import Context
from pruneopt.passes.width import Width
from tests import models
from tests.passes.test_calibrated import data


@pytest.mark.parametrize("at_once", [1, 200])
def test_outputs_in_pieces_give_the_same_figures(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.loaded(models.convnet())
    batches = data(model, 5)
    context = make_context(model, batches)
    small = Width(macs=0.6, plan="uniform").run(model, context).model
    whole = verify.fidelity(context, model, small, batches)
    monkeypatch.setattr(verify, "AT_ONCE", at_once)
    before = context.forwards
    assert verify.fidelity(context, model, small, batches) == whole
    assert context.forwards - before == pytest.approx(2.0)
    assert 0 < max(figures["rel_l2"] for figures in whole.values()) < 1


def test_models_in_between_are_gone_when_the_result_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[Model]] = []
    alive: list[list[weakref.ref[Model]]] = []
    copied, checked = Model.copy, verify.Verify.run

    def copy(self: Model) -> Model:
        made.append(weakref.ref(new := copied(self)))
        return new

    def check(self: verify.Verify, model: Model, context: Context) -> Outcome:
        gc.collect()
        alive.append([each for each in made if each() not in (None, model)])
        return checked(self, model, context)

    monkeypatch.setattr(Model, "copy", copy)
    monkeypatch.setattr(verify.Verify, "run", check)
    model = models.loaded(models.transformer())
    prune(model, macs=0.6, calib=data(model, 5), timed=False)
    assert len(made) > 3
    assert alive == [[]]
