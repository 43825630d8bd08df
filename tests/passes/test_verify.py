"""Fidelity is the same however few outputs are held at a time."""

from __future__ import annotations

import pytest

from pruneopt.api import make_context
from pruneopt.passes import verify
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
