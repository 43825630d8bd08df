"""What load and save must keep: the comparison of a model before and after."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import helper, inliner, numpy_helper


def assert_same(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    """Everything but value_info is the same; Constant nodes may have become initializers."""
    if before.functions:
        before = inliner.inline_local_functions(before, convert_version=True)
    assert fields(before, {"graph"}) == fields(after, {"graph"})
    assert_same_graph(before.graph, after.graph)


def fields(
    message: onnx.ModelProto | onnx.GraphProto | onnx.NodeProto, leave_out: set[str]
) -> dict[str, str]:
    return {f.name: repr(value) for f, value in message.ListFields() if f.name not in leave_out}


def assert_same_graph(before: onnx.GraphProto, after: onnx.GraphProto) -> None:
    handled = {"node", "initializer", "value_info", "name"}
    assert fields(before, handled) == fields(after, handled)
    assert not after.value_info
    assert after.name == (before.name or "graph")
    old, new = constants(before), constants(after)
    used = set(uses(before))
    assert new.keys() <= old.keys()
    assert old.keys() & used <= new.keys()
    for name, tensor in new.items():
        assert same_tensor(old[name], tensor), name
    assert_same_nodes(before, after)


def assert_same_nodes(before: onnx.GraphProto, after: onnx.GraphProto) -> None:
    old = [node for node in before.node if node.op_type != "Constant"]
    new = [node for node in after.node if node.op_type != "Constant"]
    assert len(old) == len(new)
    for a, b in zip(old, new, strict=True):
        assert fields(a, {"attribute"}) == fields(b, {"attribute"})
        assert [x.name for x in a.attribute] == [x.name for x in b.attribute]
        for x, y in zip(a.attribute, b.attribute, strict=True):
            if x.type == onnx.AttributeProto.GRAPH:
                assert_same_graph(x.g, y.g)
            elif x.type == onnx.AttributeProto.TENSOR:
                assert same_tensor(x.t, y.t)
            else:
                assert repr(x) == repr(y)


def constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Dense initializers and Constant nodes by name."""
    found = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name != "sparse_value":
            found[node.output[0]] = constant(node)
    return found


def constant(node: onnx.NodeProto) -> onnx.TensorProto:
    attribute = node.attribute[0]
    if attribute.name == "value":
        tensor: onnx.TensorProto = attribute.t
        return tensor
    kind = {"i": np.int64, "f": np.float32, "s": object}[attribute.name.split("_")[1][0]]
    return numpy_helper.from_array(np.array(helper.get_attribute_value(attribute), kind))


def same_tensor(a: onnx.TensorProto, b: onnx.TensorProto) -> bool:
    if (a.data_type, list(a.dims), a.doc_string) != (b.data_type, list(b.dims), b.doc_string):
        return False
    if a.data_type == onnx.TensorProto.STRING:
        return list(a.string_data) == list(b.string_data)
    return numpy_helper.to_array(a).tobytes() == numpy_helper.to_array(b).tobytes()


def uses(graph: onnx.GraphProto) -> Iterator[str]:
    """Names that nodes of the graph and its subgraphs read, and its outputs."""
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from uses(attribute.g)
    for info in graph.output:
        yield info.name
