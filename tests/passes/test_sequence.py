"""Which layers are refitted, and to what."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pruneopt.api import make_context
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
    found = {consumer.name for consumer, _ in refit_all(claim, context, context.calibration, settings)}
    assert ("y" in found) == refitted
