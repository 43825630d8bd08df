"""A model runs piece by piece, over batches of several sizes, and is the same."""

from __future__ import annotations

import numpy as np
import pytest

from pruneopt.api import make_context
from pruneopt.model import Model
from pruneopt.passes.statistics.stream import Stream
from tests import models
from tests.models import Builder


def batches(*sizes: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{"x": rng.standard_normal((size, 3, 8, 8)).astype(np.float32)} for size in sizes]


def resized() -> Model:
    b = Builder()
    y = b.node("Conv", "x", b.weight(4, 3, 1, 1))
    ends = b.node("Slice", b.node("Shape", y), b.value([0]), b.value([2]))
    b.node("Concat", ends, b.value([16, 16]), outputs=["sizes"], axis=0)
    b.node("Resize", y, "", "", "sizes", outputs=["y"], mode="nearest")
    return models.loaded(b.model({"x": ["n", 3, 8, 8]}, {"y": ["n", 4, 16, 16]}))


def test_sizes_that_an_earlier_piece_made_are_taken() -> None:
    model = resized()
    context = make_context(model)
    stream = Stream(model, context, batches(1, 3))
    assert [found.tolist() for (found,) in stream.reach("sizes")] == [[1, 4, 16, 16], [3, 4, 16, 16]]
    assert [found.shape for (found,) in stream.reach("y")] == [(1, 4, 16, 16), (3, 4, 16, 16)]


def test_what_is_asked_for_again_is_kept_and_the_rest_is_not() -> None:
    model = models.loaded(models.convnet())
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.standard_normal((2, 3, 16, 16)).astype(np.float32)}]
    stream = Stream(model, make_context(model), feeds, later=["t0"])
    for _ in stream.reach("y"):
        pass
    assert len([found for (found,) in stream.reach("t0")]) == 1
    with pytest.raises(KeyError):
        list(stream.reach("t1"))
