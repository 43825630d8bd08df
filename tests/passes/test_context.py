"""What passes share during a run does not outlive what it is about."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from pruneopt.api import make_context
from pruneopt.passes import context as module
from tests import models


def test_a_model_that_nobody_holds_goes_with_what_was_seen_of_it() -> None:
    model = models.loaded(models.convnet())
    context = make_context(model)
    gone = weakref.ref(copy := model.copy())
    context.same_tensors(copy, model)
    assert context.observation(copy) is context.observation(model)
    context.remember(copy, context.feeds[0], {"y": np.zeros(1)})
    context.remember(other := model.copy(), context.feeds[0], {"y": np.zeros(1)})
    del copy
    gc.collect()
    assert gone() is None
    assert context.known(other, context.feeds[0], ["y"])
    assert context.known(model, context.feeds[0], [t.name for t in model.outputs])


def test_a_number_that_is_used_again_finds_nothing() -> None:
    model = models.loaded(models.convnet())
    context = make_context(model)
    for _ in range(20):  # copies that take each other's places in memory
        copy = model.copy()
        assert module._find(context._seen, copy) is None
        context.same_tensors(copy, model)


def test_large_outputs_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_KEPT", 8)
    model = models.loaded(models.convnet())
    context = make_context(model)
    assert context.known(model, context.feeds[0], [t.name for t in model.outputs]) is None
