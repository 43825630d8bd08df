"""Data is cut so that outputs stay small and some can be held out, where the model allows it; models run in pieces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from pruneopt.api import make_context
from pruneopt.model import Model
from pruneopt.passes.statistics import stream
from tests.models import Builder, convnet, loaded


def _rows(shape: Sequence[Any], given: int) -> list[Any]:
    b = Builder()
    b.node("Gemm", "x", b.weight(8, 20), outputs=["y"])
    model = loaded(b.model({"x": shape}, {"y": [shape[0], 20]}))
    batch = np.random.default_rng(0).standard_normal((given, 8)).astype(np.float32)
    pieces = make_context(model, [{"x": batch}]).calibration
    np.testing.assert_array_equal(np.concatenate([p["x"] for p in pieces]), batch)
    return [len(p["x"]) for p in pieces]


def test_one_batch_becomes_enough_to_hold_some_out() -> None:
    assert _rows(["batch", 8], 45) == [4] * 11 + [1]
    assert _rows(["batch", 8], 3) == [1] * 3


def test_a_fixed_batch_is_not_cut() -> None:
    assert _rows([45, 8], 45) == [45]


def test_outputs_of_a_batch_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _rows(["batch", 8], 900) == [90] * 10
    monkeypatch.setattr(stream, "MOST_MADE", 4 * 20 * 7)
    assert max(_rows(["batch", 8], 900)) == 7


@pytest.mark.parametrize("count", range(2, 12))
def test_what_is_held_out_is_never_learned_from(count: int) -> None:
    batches = [{"x": np.array([i])} for i in range(count)]
    fit, held = stream.hold_out(batches)
    assert held
    assert sorted(int(b["x"][0]) for b in (*fit, *held)) == list(range(count))


def batches(*sizes: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{"x": rng.standard_normal((size, 3, 8, 8)).astype(np.float32)} for size in sizes]


def resized() -> Model:
    b = Builder()
    y = b.node("Conv", "x", b.weight(4, 3, 1, 1))
    ends = b.node("Slice", b.node("Shape", y), b.value([0]), b.value([2]))
    b.node("Concat", ends, b.value([16, 16]), outputs=["sizes"], axis=0)
    b.node("Resize", y, "", "", "sizes", outputs=["y"], mode="nearest")
    return loaded(b.model({"x": ["n", 3, 8, 8]}, {"y": ["n", 4, 16, 16]}))


def test_sizes_that_an_earlier_piece_made_are_taken() -> None:
    model = resized()
    context = make_context(model)
    pieces = stream.Stream(model, context, batches(1, 3))
    assert [found.tolist() for (found,) in pieces.reach("sizes")] == [[1, 4, 16, 16], [3, 4, 16, 16]]
    assert [found.shape for (found,) in pieces.reach("y")] == [(1, 4, 16, 16), (3, 4, 16, 16)]


def test_what_is_asked_for_again_is_kept_and_the_rest_is_not() -> None:
    model = loaded(convnet())
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.standard_normal((2, 3, 16, 16)).astype(np.float32)}]
    pieces = stream.Stream(model, make_context(model), feeds, later=["t0"])
    for _ in pieces.reach("y"):
        pass
    assert len([found for (found,) in pieces.reach("t0")]) == 1
    with pytest.raises(KeyError):
        list(pieces.reach("t1"))
