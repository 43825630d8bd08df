"""Windows times the weight matrix are the convolution."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from pruneopt.analysis.axes import Axis, concat, product
from pruneopt.analysis.infer import analyse
from pruneopt.api import make_context
from pruneopt.model import Model
from pruneopt.passes.statistics.consumers import find_consumers, positions
from pruneopt.passes.statistics.rows import Sampler, rows_for
from pruneopt.passes.statistics.stream import Stream, valid_tokens


def one_node(op: str, data: tuple[int, ...], weight: tuple[int, ...], **attributes: Any) -> Model:
    """A model of one consumer, `x` to `y`."""
    rng = np.random.default_rng(0)
    array = numpy_helper.from_array(rng.standard_normal(weight).astype(np.float32), "w")
    node = helper.make_node(op, ["x", "w"], ["y"], name="n", **attributes)
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, data)
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None] * len(data))
    graph = helper.make_graph([node], "g", [x], [y], [array])
    return Model.from_proto(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    )


CASES: dict[str, tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "matmul": ("MatMul", (2, 5, 6), (6, 4), {}),
    "gemm": ("Gemm", (7, 6), (6, 4), {}),
    "gemm transposed": ("Gemm", (7, 6), (4, 6), {"transB": 1}),
    "conv": ("Conv", (2, 6, 9, 8), (4, 6, 3, 3), {"pads": [1, 1, 1, 1]}),
    "conv stride": ("Conv", (2, 6, 9, 8), (4, 6, 3, 2), {"strides": [2, 1], "pads": [1, 0, 0, 1]}),
    "conv dilated": ("Conv", (2, 6, 9, 8), (4, 6, 3, 3), {"dilations": [2, 1]}),
    "conv groups": ("Conv", (2, 6, 9, 8), (4, 3, 3, 3), {"group": 2}),
    "conv same": ("Conv", (2, 6, 9, 8), (4, 6, 3, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "conv same lower": ("Conv", (2, 6, 9, 8), (4, 6, 2, 3), {"auto_pad": "SAME_LOWER"}),
    "conv 1d": ("Conv", (2, 6, 9), (4, 6, 3), {}),
}


@pytest.mark.parametrize("name", CASES)
def test_rows_times_weight_are_the_output(name: str) -> None:
    op, data, weight, attributes = CASES[name]
    model = one_node(op, data, weight, **attributes)
    context = make_context(model)
    (consumer,) = find_consumers(analyse(model, context.observation(model)))
    stream = Stream(model, context, list(context.feeds))
    ((x, y), _) = stream.reach("x", "y")
    sampler = Sampler(consumer, 20, [None], 0)
    rows = sampler.rows(0, x)
    assert rows.shape[1] <= 20
    np.testing.assert_allclose(rows @ consumer.matrix.transpose(0, 2, 1), sampler.targets(0, y), atol=1e-4)
    np.testing.assert_array_equal(consumer.stored(consumer.matrix), consumer.use.constant.values)


def test_positions_of_an_atom_in_products_and_concatenations() -> None:
    a, b = Axis((2,)), Axis((3,))
    assert positions(product([a, b], 1), a) is not None
    assert np.array_equal(positions(product([a, b], 1), a), [0, 0, 0, 1, 1, 1])  # type: ignore[arg-type]
    assert np.array_equal(positions(product([a, b], 1), b), [0, 1, 2, 0, 1, 2])  # type: ignore[arg-type]
    assert np.array_equal(positions(concat([b, a]), a), [-1, -1, -1, 0, 1])  # type: ignore[arg-type]
    assert positions(product([a, a], 1), a) is None


def test_padding_is_left_out() -> None:
    model = one_node("MatMul", (2, 3, 6), (6, 4))
    context = make_context(model)
    (consumer,) = find_consumers(analyse(model, context.observation(model)))
    feeds = {"ids": np.zeros((2, 3)), "attention_mask": np.array([[1, 1, 0], [1, 0, 0]])}
    sampler = Sampler(consumer, 100, [valid_tokens(feeds)], 0)
    assert sampler.places(0, 6).tolist() == [0, 1, 3]
    assert valid_tokens({"x": np.ones((2, 3))}) is None


@pytest.mark.parametrize(
    ("features", "rows"),
    [
        (9, 2048),
        (64, 6400),
        (576, 20_000),
        (5000, 40_000),
    ],  # few, enough, the most, eight for each in any case
)
def test_rows_grow_with_features(features: int, rows: int) -> None:
    assert rows_for(features, 20_000) == rows


def test_a_limit_below_what_would_help_holds() -> None:
    assert rows_for(64, 1000) == 1000
