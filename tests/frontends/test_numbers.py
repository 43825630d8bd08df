"""An exporter's own arithmetic becomes constants; weights stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pruneopt.frontends.numbers import fold_numbers, settle_casts


def model(nodes: list[onnx.NodeProto], **weights: Any) -> onnx.ModelProto:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in ("x", "y")]
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


def test_sizes_of_weights_and_numbers_fold_and_weights_do_not() -> None:
    nodes = [
        helper.make_node("Shape", ["w"], ["s"], start=0, end=1),
        helper.make_node("Expand", ["zero", "s"], ["bias"]),
        helper.make_node("Transpose", ["w"], ["wt"]),
        helper.make_node("Shape", ["x"], ["dynamic"]),
        helper.make_node("Gemm", ["x", "wt", "bias"], ["y"]),
    ]
    proto = model(nodes, w=np.ones((4, 4), np.float32), zero=np.zeros(1, np.float32))
    fold_numbers(proto, {"w"})
    ops = [node.op_type for node in proto.graph.node]
    assert ops == ["Constant", "Constant", "Transpose", "Shape", "Gemm"]
    assert numpy_helper.to_array(proto.graph.node[1].attribute[0].t).tolist() == [0.0] * 4


def test_random_numbers_and_large_results_stay() -> None:
    nodes = [
        helper.make_node("RandomNormalLike", ["zero"], ["r"]),
        helper.make_node("Expand", ["zero", "many"], ["large"]),
        helper.make_node("Add", ["x", "r"], ["y"]),
    ]
    proto = model(nodes, zero=np.zeros(4, np.float32), many=np.array([5000, 4]))
    fold_numbers(proto, set())
    assert [node.op_type for node in proto.graph.node] == ["RandomNormalLike", "Expand", "Add"]


def test_a_cast_to_a_known_type_says_it() -> None:
    nodes = [helper.make_node("CastLike", ["i", "x"], ["c"]), helper.make_node("Add", ["x", "c"], ["y"])]
    proto = model(nodes, i=np.array([3]))
    settle_casts(proto.graph)
    fold_numbers(proto, set())
    assert numpy_helper.to_array(proto.graph.node[0].attribute[0].t).dtype == np.float32
