"""`batch = rows // heads`: a constant that divides a size shrinks with the heads that it counts."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import pruneopt as po
from pruneopt.analysis.explain import inspect_analysis
from pruneopt.analysis.infer import analyse
from pruneopt.api import make_context
from pruneopt.backends.session import Session
from tests import models
from tests.models import Builder


def merged(heads: int = 4, width: int = 8, repeated: bool = False, newer: bool = False) -> onnx.ModelProto:
    """Attention over rows of (batch heads), as Bloom writes it; scores may get an offset repeated over the batch."""
    b = Builder()
    b.node("MatMul", "x", b.weight(24, 32, name="embed"), outputs=["e"])
    shape = b.node("Shape", "e")
    batch, length = (b.node("Gather", shape, b.value([i])) for i in (0, 1))
    whole = b.node("Concat", batch, length, b.value([heads]), b.value([width]), axis=0)
    rows = b.node("Concat", b.value([-1]), length, b.value([width]), axis=0)
    q, k, v = (
        b.node("Reshape", b.node("Transpose", b.node("Reshape", part, whole), perm=[0, 2, 1, 3]), rows)
        for part in (
            b.node("MatMul", "e", b.weight(32, heads * width, name=name)) for name in ("q", "k", "v")
        )
    )
    size = b.node("Shape", q, start=0, end=1) if newer else b.node("Gather", b.node("Shape", q), b.value([0]))
    number = b.node("Div", b.node("Squeeze", size), b.value(heads))
    again = b.node("Unsqueeze", b.node("Cast", number, to=onnx.TensorProto.INT64), b.value([0]))
    scores = b.node("MatMul", q, b.node("Transpose", k, perm=[0, 2, 1]))
    if repeated:
        times = b.node("Concat", again, b.value([1]), b.value([1]), axis=0)
        scores = b.node("Add", scores, b.node("Tile", b.weight(heads, 1, 1, name="offset"), times))
    mixed = b.node("MatMul", b.node("Softmax", scores, axis=-1), v)
    apart = b.node("Concat", again, b.value([heads]), length, b.value([width]), axis=0)
    back = b.node("Transpose", b.node("Reshape", mixed, apart), perm=[0, 2, 1, 3])
    flat = b.node("Reshape", back, b.node("Concat", batch, length, b.value([-1]), axis=0))
    b.node("MatMul", flat, b.weight(heads * width, 7, name="o"), outputs=["y"])
    return b.model({"x": ["n", "s", 24]}, {"y": ["n", "s", 7]})


@pytest.mark.parametrize(("repeated", "newer"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("ratio", [0.5, 0.25])
def test_heads_shrink_with_what_divides_by_their_number(ratio: float, repeated: bool, newer: bool) -> None:
    model = models.loaded(merged(repeated=repeated, newer=newer))
    result = po.prune(model, passes=f"width{{ratio={ratio}, axes=heads, align=1, floor=0.01}}", timed=False)
    assert result.report["output"]["params"] < result.report["input"]["params"] * (ratio + 0.4)
    for size in (1, 3), (5, 2):
        x = np.random.default_rng(0).standard_normal((*size, 24), np.float32)
        assert Session(result.model).run({"x": x})["y"].shape == (*size, 7)


def test_what_may_be_one_of_two_factors_stays() -> None:
    b = Builder()
    apart = b.node("Reshape", b.node("MatMul", "x", b.weight(24, 16)), b.value([0, 0, 4, 4]))
    rows = b.node("Reshape", b.node("Transpose", apart, perm=[0, 2, 3, 1]), b.value([-1, 5]))
    number = b.node("Div", b.node("Gather", b.node("Shape", rows), b.value([0])), b.value(4))
    again = b.node("Reshape", rows, b.node("Concat", number, b.value([4, 5]), axis=0))
    b.node("ReduceSum", again, b.value([0, 1]), outputs=["y"])
    model = models.loaded(b.model({"x": ["n", 5, 24]}, {"y": [1, 1, 5]}))
    context = make_context(model)
    reasons = [str(each) for each in inspect_analysis(analyse(model, context.observation(model))).frozen()]
    assert any("a size is divided by it or by another one" in each for each in reasons)
