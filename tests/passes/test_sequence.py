"""Which layers are refitted, and to what."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pruneopt.api import make_context
from pruneopt.passes.aim import aim_of
from pruneopt.passes.repair import Repair
from pruneopt.passes.rewriting.masked import Masked
from pruneopt.passes.sequence import Settings, refit_all
from pruneopt.passes.width import Width
from tests import models
from tests.passes.test_calibrated import data


@pytest.mark.parametrize(("samples", "refitted"), [(2000, True), (1 << 30, False)])
def test_the_last_layer_is_refitted_to_the_original_outputs_if_they_are_few(
    samples: int, refitted: bool
) -> None:
    model = models.loaded(models.convnet())
    context = make_context(model, data(model))
    outcome = Width(macs=0.6, plan="uniform").run(model, context)
    assert isinstance(outcome.claim, Masked)
    inner = {atom: mask for atom, mask in outcome.claim.masks.items() if mask.size == 48}
    assert inner
    claim = replace(outcome.claim, masks=inner)
    settings = Settings("stream", Repair.ridge, Repair.conv_ridge, samples)
    aim = aim_of(claim, context)
    found = {consumer.name for consumer, _ in refit_all(claim, context, context.calibration, settings, aim)}
    assert ("y" in found) == refitted


def test_a_shortcut_is_refitted_before_the_layer_that_can_make_up_for_more() -> None:
    b = models.Builder()
    x = b.node("Relu", b.node("Conv", "x", b.weight(16, 8, 1, 1)))
    inner = b.node("Relu", b.node("Conv", x, b.weight(16, 16, 3, 3), pads=[1] * 4))
    inner = b.node("Conv", inner, b.weight(8, 16, 3, 3), pads=[1] * 4, outputs=["inner"])
    total = b.node("Add", inner, b.node("Conv", x, b.weight(8, 16, 1, 1), outputs=["shortcut"]))
    b.node("ReduceMean", b.node("Relu", total), axes=[2, 3], keepdims=0, outputs=["y"])
    model = models.loaded(b.model({"x": ["n", 8, 6, 6]}, {"y": ["n", 8]}))
    context = make_context(model, data(model))
    claim = Width(ratio=0.5).run(model, context).claim
    assert isinstance(claim, Masked)
    settings = Settings("stream", Repair.ridge, Repair.conv_ridge, 2000)
    found = refit_all(claim, context, context.calibration, settings, aim_of(claim, context))
    names = [consumer.name for consumer, _ in found]
    assert names.index("shortcut") < names.index("inner")
