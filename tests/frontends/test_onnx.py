"""What a model says comes back as it was: names, types, metadata, subgraphs, every kind of weight."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import AttributeProto, TensorProto, helper, numpy_helper, parser

from pruneopt.errors import PruneoptError
from pruneopt.model import Model, constants, values
from tests.frontends.round_trip import assert_same

RICH = """
<ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1], producer_name: "maker",
 producer_version: "1.2", domain: "org.example", model_version: 7, doc_string: "a model",
 metadata_props: ["licence": "MIT", "a": "b"]>
rich (float[batch, 4, "w h"] x, int64[N] i, seq(float[N]) s, optional(float[2]) o)
=> (float[batch, 4, M] y, float z)
<float[4,1] w = {1, -2, 3.5, nan}, float one = {1}>
{
  [mul] a = Mul(x, w)
  b = Relu(a)
  y = Add(b, one)
  z = ReduceSum <keepdims = 0> (y)
}
"""


def rich() -> onnx.ModelProto:
    proto = parser.parse_model(RICH)
    graph = proto.graph
    graph.doc_string = "a graph"
    graph.metadata_props.add(key="graph", value="yes")
    graph.input[0].doc_string = "pixels"
    graph.input[0].type.denotation = "IMAGE"
    graph.input[0].type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
    graph.input[0].metadata_props.add(key="unit", value="1")
    graph.output[0].doc_string = "result"
    graph.initializer[0].doc_string = "scale"
    graph.node[0].doc_string = "multiplies"
    graph.node[0].metadata_props.add(key="namespace", value="layer.0")
    graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, ["batch", 4, 99]))
    graph.quantization_annotation.add(tensor_name="a").quant_parameter_tensor_names.add(
        key="SCALE_TENSOR", value="one"
    )
    graph.quantization_annotation.add(tensor_name="never")
    return proto


def test_everything_beside_the_nodes_is_kept(tmp_path: Path) -> None:
    proto = rich()
    (tmp_path / "in.onnx").write_bytes(proto.SerializeToString())
    model = Model.load(tmp_path / "in.onnx")
    model.copy().save(tmp_path / "out.onnx")
    del proto.graph.quantization_annotation[1]
    assert_same(proto, onnx.load(tmp_path / "out.onnx"))
    assert_same(proto, model.proto())
    onnx.checker.check_model(model.proto())


def test_value_info_is_known_but_not_written() -> None:
    model = Model.from_proto(rich())
    assert model.graph.nodes[0].outputs[0].shape == ["batch", 4, 99]
    assert model.graph.nodes[0].outputs[0].dtype == np.float32
    assert not model.proto().graph.value_info


def test_from_proto_leaves_the_proto_alone() -> None:
    proto = rich()
    before = proto.SerializeToString(deterministic=True)
    Model.from_proto(proto).proto()
    assert proto.SerializeToString(deterministic=True) == before


def test_changed_shapes_of_the_signature_are_written() -> None:
    model = Model.from_proto(rich())
    model.inputs[0].shape = [2, 4, "w h"]
    info = model.proto().graph.input[0]
    dims = info.type.tensor_type.shape.dim
    assert [dims[0].dim_value, dims[1].dim_value, dims[2].dim_param] == [2, 4, "w h"]
    assert dims[0].denotation == "DATA_BATCH"
    assert info.doc_string == "pixels"


SPELLINGS: dict[str, Any] = {
    "value": numpy_helper.from_array(np.array([1, 2], np.float32), "ignored"),
    "value_int": 3,
    "value_ints": [3, 4],
    "value_float": 1.5,
    "value_floats": [1.5, 2],
    "value_string": "text",
    "value_strings": ["a", "b"],
    "sparse_value": helper.make_sparse_tensor(
        helper.make_tensor("v", TensorProto.FLOAT, [2], [1, 2]),
        helper.make_tensor("i", TensorProto.INT64, [2], [0, 3]),
        [4],
    ),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_constant_nodes_become_constants(spelling: str) -> None:
    attribute = helper.make_attribute(spelling, SPELLINGS[spelling])
    node = helper.make_node("Constant", [], ["c"])
    node.attribute.append(attribute)
    sink = helper.make_node("Shape", ["c"], ["y"])
    graph = helper.make_graph(
        [node, sink], "g", [], [helper.make_tensor_value_info("y", TensorProto.INT64, [None])]
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model = Model.from_proto(proto)
    assert [n.op for n in model.graph.nodes] == ["Shape"]
    (constant,) = constants(model.graph)
    expected = [1, 0, 0, 2] if spelling == "sparse_value" else SPELLINGS[spelling]
    if spelling == "value":
        expected = [1, 2]
    assert values(constant).tolist() == expected
    written = model.proto()
    onnx.checker.check_model(written)
    before, after = (ort.InferenceSession(p.SerializeToString()).run(None, {}) for p in (proto, written))
    assert before[0].tolist() == after[0].tolist()


def test_constant_node_that_is_an_output_stays() -> None:
    proto = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g () => (float[2] y)'
        "{ y = Constant <value_floats = [1.0, 2.0]> () }"
    )
    model = Model.from_proto(proto)
    assert [node.op for node in model.graph.nodes] == ["Constant"]
    assert_same(proto, model.proto())


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("FLOAT", np.float32), ("DOUBLE", np.float64), ("FLOAT16", np.float16),
        ("BFLOAT16", ml_dtypes.bfloat16),
        ("FLOAT8E4M3FN", ml_dtypes.float8_e4m3fn), ("FLOAT8E5M2", ml_dtypes.float8_e5m2),
        ("INT4", ml_dtypes.int4), ("UINT4", ml_dtypes.uint4), ("INT8", np.int8), ("UINT64", np.uint64),
        ("BOOL", np.bool_), ("COMPLEX64", np.complex64), ("INT64", np.int64), ("INT16", np.int16),
    ],
)  # fmt: skip
@pytest.mark.parametrize("raw", [True, False])
def test_every_element_type_is_kept_and_can_be_edited(name: str, dtype: type, raw: bool) -> None:
    kind = TensorProto.DataType.Value(name)
    array: NDArray[Any] = np.array([1, 0, 1, 1, 0], np.float32).astype(dtype)
    tensor = numpy_helper.from_array(array, "w")
    if not raw:
        tensor = helper.make_tensor(
            "w", kind, [5], array.astype(np.complex64 if "COMPLEX" in name else float)
        )
    graph = helper.make_graph(
        [helper.make_node("Shape", ["w"], ["y"])],
        "g",
        [],
        [helper.make_tensor_value_info("y", TensorProto.INT64, [1])],
        [tensor],
    )
    model = Model.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)]))
    (constant,) = constants(model.graph)
    assert values(constant).dtype == np.dtype(dtype)
    assert not values(constant).flags.writeable
    assert values(constant).tobytes() == array.tobytes()
    (written,) = model.proto().graph.initializer
    assert written.raw_data == numpy_helper.from_array(array).raw_data
    constant.values = values(constant)[[0, 2, 4]]
    (written,) = model.proto().graph.initializer
    assert (written.data_type, list(written.dims)) == (kind, [3])
    assert numpy_helper.to_array(written).tobytes() == array[[0, 2, 4]].tobytes()


def test_strings_need_not_be_text() -> None:
    tensor = TensorProto(name="w", data_type=TensorProto.STRING, dims=[2], string_data=[b"\xff\xfe", b"ok"])
    node = helper.make_node("Custom", ["w"], ["y"], domain="own", label=b"\xff")
    output = helper.make_tensor_value_info("y", TensorProto.STRING, [2])
    graph = helper.make_graph([node], "g", [], [output], [tensor])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    model = Model.from_proto(proto)
    assert values(constants(model.graph)[0]).tolist() == [b"\xff\xfe", b"ok"]
    assert_same(proto, model.proto())


def attribute(name: str, kind: int, **value: object) -> AttributeProto:
    return AttributeProto(name=name, type=kind, **value)  # type: ignore[arg-type]


UNUSUAL = [
    attribute("none", AttributeProto.INTS),
    attribute("empty", AttributeProto.FLOATS),
    attribute("blank", AttributeProto.STRINGS),
    attribute("nan", AttributeProto.FLOAT, f=float("nan")),
    attribute("whole", AttributeProto.FLOATS, floats=[1.0, 2.0]),
    attribute("kind", AttributeProto.TYPE_PROTO, tp=helper.make_tensor_type_proto(1, [2])),
    attribute("many", AttributeProto.TENSORS, tensors=[numpy_helper.from_array(np.zeros(2))]),
    attribute("thin", AttributeProto.SPARSE_TENSOR, sparse_tensor=SPELLINGS["sparse_value"]),
]


def custom(attributes: list[AttributeProto]) -> onnx.ModelProto:
    node = helper.make_node("Custom", ["x"], ["y"], domain="own", name="c")
    node.attribute.extend(attributes)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy")
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    return helper.make_model(helper.make_graph([node], "g", [x], [y]), opset_imports=opsets, ir_version=8)


def test_unusual_attributes_are_kept() -> None:
    proto = custom(UNUSUAL)
    assert_same(proto, Model.from_proto(proto).copy().proto())


def test_a_list_of_graphs_is_refused() -> None:
    graph = parser.parse_graph("g (float[2] a) => (float[2] b) { b = Relu(a) }")
    with pytest.raises(PruneoptError, match="Custom 'c': attribute 'bodies' has a kind"):
        Model.from_proto(custom([attribute("bodies", AttributeProto.GRAPHS, graphs=[graph])]))


def test_new_attributes_get_their_kind_from_the_value() -> None:
    model = Model.from_proto(custom(UNUSUAL))
    node = model.graph.nodes[0]
    node.attrs = {
        "i": np.int64(3), "f": np.float32(0.5), "s": "text", "ints": np.array([1, 2]), "t": (0.5, 1),
        "whole": [1, 2],
    }  # fmt: skip
    kinds = {a.name: AttributeProto.AttributeType.Name(a.type) for a in model.proto().graph.node[0].attribute}
    assert kinds == {
        "i": "INT",
        "f": "FLOAT",
        "s": "STRING",
        "ints": "INTS",
        "t": "FLOATS",
        "whole": "FLOATS",
    }


OLD = """
<ir_version: 3, opset_import: ["" : 9]>
g (float[4] w, float[N, 4] x) => (float[N, 4] y) <float[4] w = {1, 2, 3, 4}>
{ c = Constant <value = float[1] {2}> () t = Mul(x, w) y = Mul(t, c) }
"""


def test_initializers_that_are_inputs_stay_in_the_signature() -> None:
    proto = parser.parse_model(OLD)
    model = Model.from_proto(proto).copy()
    assert [tensor.name for tensor in model.inputs] == ["x"]
    written = model.proto()
    assert_same(proto, written)
    assert [info.name for info in written.graph.input] == ["w", "x"]
    onnx.checker.check_model(written)
    feeds = {"x": np.ones((1, 4), np.float32)}
    assert ort.InferenceSession(written.SerializeToString()).run(None, feeds)[0].tolist() == [[2, 4, 6, 8]]


def test_inputs_with_a_default_can_still_be_fed() -> None:
    proto = parser.parse_model(OLD.replace("ir_version: 3", "ir_version: 8"))
    written = Model.from_proto(proto).copy().proto()
    assert_same(proto, written)
    feeds = {"x": np.ones((1, 4), np.float32), "w": np.array([5, 5, 5, 5], np.float32)}
    assert ort.InferenceSession(written.SerializeToString()).run(None, feeds)[0].tolist() == [[10] * 4]


def test_a_sliced_initializer_that_is_an_input_is_listed_with_its_new_shape() -> None:
    model = Model.from_proto(parser.parse_model(OLD))
    weight = next(c for c in constants(model.graph) if c.name == "w")
    weight.values = values(weight)[:1]
    written = model.proto()
    assert written.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1
    onnx.checker.check_model(written)


FUNCTIONS = """
<ir_version: 9, opset_import: ["" : 20, "local" : 1]>
main (float[N] x, bool b) => (float[N] y)
<float[1] w = {3}>
{
  a = local.twice <by = 2.0> (x, w)
  d = local.twice (a, w)
  y = If (b) <
    then_branch = t () => (float[N] p) { p = local.twice (d, w) },
    else_branch = e () => (float[N] q) { q = local.choose (b, d) }
  >
}
<domain: "local", opset_import: ["" : 20, "local" : 1]>
twice <by: float = 5.0> (x, w) => (y)
{ c = Constant <value_float: float = @by> () t = Mul(x, c) y = local.plus(t, w) }
<domain: "local", opset_import: ["" : 20]>
plus (a, b) => (c) { c = Add(a, b) }
<domain: "local", opset_import: ["" : 20]>
choose (b, x) => (y)
{ y = If (b) <then_branch = t () => (p) { p = Neg(x) }, else_branch = e () => (q) { q = Abs(x) }> }
"""


def test_local_functions_are_inlined() -> None:
    proto = parser.parse_model(FUNCTIONS)
    model = Model.from_proto(proto)
    assert [node.op for node in model.graph.nodes] == ["Mul", "Add", "Mul", "Add", "If"]
    written = model.copy().proto()
    assert not written.functions
    onnx.checker.check_model(written)
    session, original = (ort.InferenceSession(p.SerializeToString()) for p in (written, proto))
    for branch in (True, False):
        feeds = {"x": np.array([1, -2], np.float32), "b": np.array(branch)}
        assert session.run(None, feeds)[0].tolist() == original.run(None, feeds)[0].tolist()


def test_functions_of_an_older_opset_are_converted() -> None:
    proto = parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 20, "l" : 1]> g (float[2, 3] x) => (float[2] y) { y = l.f(x) }'
        '<domain: "l", opset_import: ["" : 17]> f (a) => (b) { b = ReduceMax <axes = [1], keepdims = 0> (a) }'
    )
    written = Model.from_proto(proto).proto()
    feeds = {"x": np.arange(6, dtype=np.float32).reshape(2, 3)}
    assert ort.InferenceSession(written.SerializeToString()).run(None, feeds)[0].tolist() == [2, 5]


def test_sparse_initializers_stay_sparse_until_edited() -> None:
    sparse = SPELLINGS["sparse_value"]
    sparse.values.name = "w"
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [x], [y])
    graph.sparse_initializer.append(sparse)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model = Model.from_proto(proto)
    assert constants(model.graph)[0].values.tolist() == [1, 0, 0, 2]
    assert_same(proto, model.proto())
    constants(model.graph)[0].values = np.array([1, 2, 3, 4], np.float32)
    written = model.proto().graph
    assert not written.sparse_initializer
    assert numpy_helper.to_array(written.initializer[0]).tolist() == [1, 2, 3, 4]


BRANCHES = """
<ir_version: 8, opset_import: ["" : 17]>
g (bool c, float[2] x) => (float[2] y) <float[2] outer = {1, 2}, float[2] shared = {3, 4}>
{
  s = Relu(x)
  y = If (c) <
    then_branch = t () => (float[2] p) <float[2] inner = {5, 6}> { q = Add(s, outer) r = Add(q, inner) p = Add(r, shared) },
    else_branch = e () => (float[2] p2) <float[2] inner = {7, 8}> { k = Constant <value_float = 2.0> () r2 = Mul(s, k) r3 = Sub(r2, shared) p2 = Mul(r3, inner) }
  >
}
"""  # noqa: E501


def test_subgraphs_are_kept_with_their_own_and_outer_tensors() -> None:
    proto = parser.parse_model(BRANCHES)
    model = Model.from_proto(proto).copy()
    written = model.proto()
    assert_same(proto, written)
    assert [tensor.name for tensor in written.graph.initializer] == ["outer", "shared"]
    then, other = (a.g for a in written.graph.node[1].attribute)
    assert [tensor.name for tensor in then.initializer] == ["inner"]
    assert [tensor.name for tensor in other.initializer] == ["inner", "k"]
    session, original = (ort.InferenceSession(p.SerializeToString()) for p in (written, proto))
    for condition in (True, False):
        feeds = {"c": np.array(condition), "x": np.array([1, -1], np.float32)}
        assert session.run(None, feeds)[0].tolist() == original.run(None, feeds)[0].tolist()


def test_constants_of_subgraphs_are_listed_once_each() -> None:
    model = Model.from_proto(parser.parse_model(BRANCHES))
    assert sorted(c.name for c in constants(model.graph)) == ["inner", "inner", "k", "outer", "shared"]


def test_a_new_constant_of_two_branches_goes_around_both() -> None:
    model = Model.from_proto(parser.parse_model(BRANCHES))
    new = gs.Constant("new", np.array([1, 1], np.float32))
    for branch in model.graph.nodes[1].attrs.values():
        branch.nodes[-1].inputs[1] = new
    written = model.proto()
    assert [tensor.name for tensor in written.graph.initializer] == ["outer", "shared", "new"]
    onnx.checker.check_model(written)
