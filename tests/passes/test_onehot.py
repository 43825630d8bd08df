"""Products with one-hot vectors become lookups; numbers that are hot nowhere stay zero."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from pruneopt import api
from pruneopt.backends.ort import OnnxRuntime
from pruneopt.passes.base import Outcome
from pruneopt.passes.pipeline import Pipeline
from pruneopt.passes.simplify import Simplify
from tests import models

TABLE = np.arange(1.0, 16.0, dtype=np.float32).reshape(5, 3)
COMPARED = """
    places = Unsqueeze (x, last) spread = Expand (places, shape)
    same = Equal (spread, count) hot = Cast <to = 1> (same)"""
BARE = """
    places = Unsqueeze (x, last) same = Equal (count, places) hot = Cast <to = 1> (same)"""
CHOSEN = """
    whole = OneHot <axis = -1> (x, depth, pair) hot = Cast <to = 1> (whole)"""


def model(hot: str, count: list[int], opset: int = 17) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : {opset}]>
        g (int64[N, 4] x) => (float[N, 4, 3] y) {{ {hot} y = MatMul (hot, table) }}"""
    )
    integers = {"last": [-1], "shape": [1, 1, 5], "count": count, "depth": 5, "pair": [0, 1]}
    weights = [numpy_helper.from_array(np.array(v, np.int64), n) for n, v in integers.items() if n in hot]
    proto.graph.initializer.extend([*weights, numpy_helper.from_array(TABLE, "table")])
    return proto


def simplified(proto: onnx.ModelProto) -> Outcome:
    loaded = models.loaded(proto)
    return Pipeline([Simplify()]).run(loaded, api.make_context(loaded))


@pytest.mark.parametrize(("hot", "below"), [(COMPARED, None), (BARE, None), (CHOSEN, [4, 0])])
def test_a_product_with_one_hot_vectors_is_a_lookup(hot: str, below: list[int] | None) -> None:
    proto = model(hot, [0, 1, 2, 3, 4])
    outcome = simplified(proto)
    assert not {"MatMul", "Equal", "OneHot", "Expand"} & {n.op for n in outcome.model.graph.nodes}
    x = np.array([[0, 4, -1, -5], [5, 9, -6, np.iinfo(np.int64).min]])  # OneHot counts -1 to -5 from the end
    found = OnnxRuntime().session(outcome.model).run({"x": x})["y"]
    ends = np.zeros((2, 3), np.float32) if below is None else TABLE[below]
    np.testing.assert_array_equal(found[0], [TABLE[0], TABLE[4], *ends])
    np.testing.assert_array_equal(found[1], np.zeros((4, 3)))


@pytest.mark.parametrize("count", [[0, 1, 2, 4, 3], [1, 2, 3, 4, 5]])
def test_other_comparisons_stay(count: list[int]) -> None:
    assert "MatMul" in {n.op for n in simplified(model(COMPARED, count)).model.graph.nodes}


def test_a_table_that_is_not_finite_stays() -> None:
    proto = model(BARE, [0, 1, 2, 3, 4])
    proto.graph.initializer[-1].CopyFrom(numpy_helper.from_array(TABLE * np.float32("inf"), "table"))
    assert "MatMul" in {n.op for n in simplified(proto).model.graph.nodes}


def test_columns_of_the_table_are_pruned() -> None:
    b = models.Builder()
    places = b.node("Cast", b.node("Unsqueeze", "x", b.value([-1])), to=onnx.TensorProto.INT64)
    hot = b.node("Cast", b.node("Equal", places, b.value(np.arange(9))), to=onnx.TensorProto.FLOAT)
    inner = b.node("Relu", b.node("MatMul", hot, b.weight(9, 16)))
    proto = b.model({"x": ["n", 4]}, {b.node("MatMul", inner, b.weight(16, 2)): ["n", 4, 2]})
    result = api.prune(models.loaded(proto), passes="simplify, width{ratio=0.5}", timed=False)
    assert {tuple(w.dims) for w in result.model.proto().graph.initializer} >= {(11, 8), (8, 2)}
