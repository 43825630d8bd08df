"""Calibration data is cut so that outputs stay small and some can be held out, and only where the model allows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from pruneopt.api import make_context
from pruneopt.passes.statistics import stream
from tests.models import Builder, loaded


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
