"""What moves when all last bits do: numbers that were rounded, and none that are exact."""

from __future__ import annotations

import numpy as np

from pruneopt.backends.ort import OnnxRuntime
from pruneopt.passes.context import Context
from pruneopt.passes.distance import distance
from pruneopt.passes.rounding import trembling
from tests.models import Builder, loaded


def test_last_bits_move_and_exponents_and_masks_do_not() -> None:
    """The square of a negative number is none at an exponent next to two; a mask is the lowest number there is."""
    b = Builder()
    square = b.node("Pow", b.node("MatMul", "x", b.weight(8, 4)), b.value(2.0, np.float32))
    low = b.value(np.array([0, np.finfo(np.float32).min, 0, 0]), np.float32)
    b.node("Softmax", b.node("Add", square, low), outputs=["y"])
    model = loaded(b.model({"x": ["n", 8]}, {"y": ["n", 4]}))
    feeds = {"x": np.random.default_rng(0).standard_normal((16, 8)).astype(np.float32)}
    before, after = trembling(model, feeds, ["y"], Context(OnnxRuntime(), [feeds]))
    assert 0 < distance(before["y"], after["y"]) < 1e-5
