"""`Model`: copies are independent and share weights, constants are found wherever they are used."""

from __future__ import annotations

import time

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto, helper, numpy_helper, parser

from pruneopt.model import Model, constants, values

TEXT = """
<ir_version: 8, opset_import: ["" : 17, "com.microsoft": 1]>
g (bool c, float[n, 2] x) => (float[n, 2] y) <float[2] w = {1, 2}, float[2] v = {3, 4}>
{
  [add] a = Add(x, w)
  [if] b = If (c) <
    then_branch = t () => (float[n, 2] p) { p = Mul(a, v) },
    else_branch = e () => (float[n, 2] q) { k = Add(a, v) q = Mul(k, w) }
  >
  [out] y = Sub(b, w)
}
"""


def model() -> Model:
    proto = parser.parse_model(TEXT)
    proto.graph.node[0].metadata_props.add(key="k", value="v")
    return Model.from_proto(proto)


def everything(graph: gs.Graph) -> list[object]:
    """The graph, its nodes and tensors, and those of its subgraphs."""
    found: list[object] = [graph]
    for node in graph.nodes:
        found += [node, *node.inputs, *node.outputs]
        for value in node.attrs.values():
            found += everything(value) if isinstance(value, gs.Graph) else []
    return found


def test_a_copy_has_its_own_objects_and_the_same_weights() -> None:
    one = model()
    two = one.copy()
    assert one.proto() == two.proto()
    assert not {id(item) for item in everything(one.graph)} & {id(item) for item in everything(two.graph)}
    for a, b in zip(constants(one.graph), constants(two.graph), strict=True):
        assert np.shares_memory(values(a), values(b))


def test_a_copy_is_changed_alone() -> None:
    one = model()
    before = one.proto()
    two = one.copy()
    weight = next(c for c in constants(two.graph) if c.name == "v")
    weight.values = np.array([5, 6], np.float32)
    two.graph.nodes[0].op = "Sub"
    two.graph.nodes[1].attrs["then_branch"].nodes[0].name = "renamed"
    two.graph.inputs[1].shape[0] = 7
    two.header.producer_name = "other"
    del two.graph.nodes[2].attrs, two.graph.outputs[:]
    assert one.proto() == before


def test_tensors_of_the_outer_graph_stay_outer_in_a_copy() -> None:
    graph = model().copy().graph
    outer = graph.nodes[0].outputs[0]
    branches = graph.nodes[1].attrs
    assert branches["then_branch"].nodes[0].inputs[0] is outer
    assert branches["else_branch"].nodes[0].inputs[0] is outer
    assert [node.op for node in outer.outputs] == ["Mul", "Add"]


def test_constants_are_listed_once_each_and_by_identity() -> None:
    assert [c.name for c in constants(model().graph)] == ["w", "v"]


def test_omitted_inputs_stay_omitted() -> None:
    proto = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[2] x, float m) => (float[2] y){ y = Clip(x, , m) }'
    )
    assert list(Model.from_proto(proto).copy().proto().graph.node[0].input) == ["x", "", "m"]


def test_opset() -> None:
    assert model().opset() == model().opset("ai.onnx") == 17
    assert model().opset("com.microsoft") == 1
    assert model().opset("org.example") == 0


def test_values_leaves_the_constant_as_stored() -> None:
    one = model()
    constant = constants(one.graph)[0]
    assert values(constant).tolist() == [1, 2]
    assert not isinstance(constant._values, np.ndarray)
    constant.values = np.array([1, 2, 3], np.float32)
    assert values(constant) is constant.values


def test_a_long_model_is_loaded_copied_and_written_in_a_moment() -> None:
    count = 5000
    weights = [numpy_helper.from_array(np.ones(4, np.float32), f"w{i}") for i in range(count)]
    nodes = [helper.make_node("Add", [f"x{i}", f"w{i}"], [f"x{i + 1}"], name=f"n{i}") for i in range(count)]
    first, last = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [4]) for n in ("x0", f"x{count}"))
    graph = helper.make_graph(nodes, "g", [first], [last], weights)
    proto = helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    start = time.process_time()
    Model.from_proto(proto).copy().proto()
    assert time.process_time() - start < 5  # about 0.5 s; quadratic copying took minutes
