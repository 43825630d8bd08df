"""Exact steps: nothing that counts is lost, and what does not count goes."""

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


def simplified(proto: onnx.ModelProto) -> Outcome:
    model = models.loaded(proto)
    return Pipeline([Simplify(idle=True)]).run(model, api.make_context(model))


def zeroed(proto: onnx.ModelProto, name: str, where: tuple[object, ...]) -> onnx.ModelProto:
    """The model with part of a weight set to zero."""
    (weight,) = (w for w in proto.graph.initializer if w.name == name)
    array = numpy_helper.to_array(weight).copy()
    array[where] = 0
    weight.CopyFrom(numpy_helper.from_array(array, name))
    return proto


def shapes(outcome: Outcome) -> dict[str, list[int]]:
    return {w.name: list(w.dims) for w in outcome.model.proto().graph.initializer}


def test_batch_normalisation_is_folded() -> None:
    outcome = simplified(models.convnet())
    assert "BatchNormalization" not in {n.op for n in outcome.model.graph.nodes}
    assert outcome.entry["passes"][0]["equivalence"]["max_rel_error"] < 1e-5
    assert {"w1", "w2"} <= set(shapes(outcome))  # weights keep the names that users know them by


def test_static_shape_arithmetic_and_the_scale_become_constants() -> None:
    outcome = simplified(models.transformer())
    ops = {n.op for n in outcome.model.graph.nodes}
    assert not {"Sqrt", "Cast"} & ops  # the softmax scale was computed from a static size


def test_channels_that_nothing_reads_go() -> None:
    """w2 reads the 48 inner channels of the first block, which w1 makes."""
    outcome = simplified(zeroed(models.convnet(), "w2", (slice(None), slice(0, 20))))
    found = shapes(outcome)
    assert found["w1"][0] == 28
    assert outcome.entry["passes"][0]["equivalence"]["max_rel_error"] < 1e-5


def test_masked_filters_go_where_zero_stays_zero() -> None:
    outcome = simplified(zeroed(models.convnet(), "w1", (slice(8, 40),)))
    assert shapes(outcome)["w1"][0] == 16
    assert outcome.entry["passes"][0]["equivalence"]["max_rel_error"] < 1e-5


def test_a_filter_of_zeros_stays_where_its_bias_speaks() -> None:
    proto = zeroed(models.convnet(), "w1", (slice(8, 40),))
    bias = numpy_helper.from_array(np.ones(48, np.float32), "bias")
    proto.graph.initializer.append(bias)
    (conv,) = (n for n in proto.graph.node if "w1" in n.input)
    conv.input.append("bias")
    assert shapes(simplified(proto))["w1"][0] == 48


@pytest.mark.parametrize("net", [models.convnet, models.transformer, models.group_norm_net])
def test_a_clean_model_loses_no_width(net: object) -> None:
    proto = net()  # type: ignore[operator]
    before = {w.name: list(w.dims) for w in proto.graph.initializer}
    after = shapes(simplified(proto))
    assert all(after[name] == dims for name, dims in before.items() if name in after and name.startswith("w"))


def lookup(*, clipped: bool) -> onnx.ModelProto:
    """Rows of x looked up at 0 1 2 ..., as exporters write a view with strides; or at most at 40."""
    integers = {"none": [-1], "zero": 0, "one": 1, "four": 4, "last": 40}
    weights = [numpy_helper.from_array(np.array(v, np.int64), n) for n, v in integers.items()]
    weights.append(numpy_helper.from_array(np.arange(4, dtype=np.int64).reshape(1, 4), "columns"))
    nodes = [
        onnx.helper.make_node("Reshape", ["x", "none"], ["flat"]),
        onnx.helper.make_node("Shape", ["x"], ["shape"]),
        onnx.helper.make_node("Gather", ["shape", "zero"], ["batch"]),
        onnx.helper.make_node("Range", ["zero", "batch", "one"], ["count"]),
        onnx.helper.make_node("Mul", ["count", "four"], ["starts"]),
        onnx.helper.make_node("Unsqueeze", ["starts", "one_"], ["rows"]),
        onnx.helper.make_node("Add", ["rows", "columns"], ["sum"]),
        onnx.helper.make_node("Min", ["sum", "last"] if clipped else ["sum"], ["least"]),
        onnx.helper.make_node("Gather", ["flat", "least" if clipped else "sum"], ["y"], axis=0),
    ]
    weights.append(numpy_helper.from_array(np.array([1], np.int64), "one_"))
    ends = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["batch", 4]) for n in "xy"]
    graph = onnx.helper.make_graph(nodes, "lookup", ends[:1], ends[1:], weights)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


def test_looking_all_rows_up_in_order_is_a_reshape() -> None:
    assert [n.op for n in simplified(lookup(clipped=False)).model.graph.nodes] == ["Reshape", "Reshape"]


def test_positions_that_agree_by_chance_stay() -> None:
    assert "Gather" in {n.op for n in simplified(lookup(clipped=True)).model.graph.nodes}


def test_known_values_of_half_precision_stay_halves() -> None:
    """Positions of a fixed length are looked up in a float16 table; with a float32 constant it would not load."""
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float16[N, 4, 3] x) => (float16[N, 4, 3] y) {
            shape = Shape <start = 1, end = 2> (x) axis = Constant <value = int64[1] {0}> ()
            length = Squeeze (shape, axis)
            zero = Constant <value = int64 {0}> () one = Constant <value = int64 {1}> ()
            places = Range (zero, length, one) positions = Gather (table, places) y = Add (x, positions) }"""
    )
    table = np.arange(12, dtype=np.float16).reshape(4, 3)
    proto.graph.initializer.append(numpy_helper.from_array(table, "table"))
    outcome = simplified(proto)
    assert [n.op for n in outcome.model.graph.nodes] == ["Add"]
    x = np.ones((2, 4, 3), np.float16)
    found = OnnxRuntime().session(outcome.model).run({"x": x})["y"]
    np.testing.assert_array_equal(found, x + table)
