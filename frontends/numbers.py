"""What an exporter computes from its own numbers and from the sizes of weights, as constants.

The weights themselves stay as they are: only what no weight's values reach is folded.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from pruneopt.model import RANDOM

LARGEST = 4096  # entries; larger results stay computed


def settle_casts(graph: onnx.GraphProto) -> None:
    """CastLike to Cast where the type is known: then the result depends on the data alone, and may be a constant."""
    infos = (*graph.value_info, *graph.input, *graph.output)
    types = {info.name: info.type.tensor_type.elem_type for info in infos}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "CastLike" and types.get(node.input[1]):
            node.op_type = "Cast"
            del node.attribute[:]
            node.attribute.add(name="to", type=AttributeProto.INT, i=types[node.input.pop()])


def fold_numbers(proto: onnx.ModelProto, weights: Collection[str]) -> None:
    """Nodes that depend on nothing but numbers, and on sizes of `weights`, become constants."""
    opsets = {entry.domain: entry.version for entry in proto.opset_import}
    graph = proto.graph
    sizes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    known: dict[str, Any] = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if tensor.name not in weights and np.prod(tensor.dims) <= LARGEST
    }
    for node in graph.node:
        value = _value(node, known, sizes, opsets)
        if isinstance(value, np.ndarray | np.generic) and np.size(value) <= LARGEST:
            known[node.output[0]] = np.asarray(value)
            if node.op_type != "Constant":
                _make_constant(node, np.asarray(value))


def _value(
    node: onnx.NodeProto, known: dict[str, Any], sizes: dict[str, list[int]], opsets: dict[str, int]
) -> Any:
    """The value of a node's one output; None where it is not known, or cannot be computed here."""
    if node.op_type == "Shape" and node.input[0] in sizes:
        bounds = {attribute.name: attribute.i for attribute in node.attribute}
        return np.array(sizes[node.input[0]][bounds.get("start", 0) : bounds.get("end")], np.int64)
    inputs = [name for name in node.input if name]
    plain = len(node.output) == 1 and not any(attribute.HasField("g") for attribute in node.attribute)
    if node.domain or node.op_type in RANDOM or not plain or any(name not in known for name in inputs):
        return None
    if not inputs and node.op_type != "Constant":
        return None
    try:
        found: Any = ReferenceEvaluator(node, opsets=opsets).run(None, {name: known[name] for name in inputs})
        return found[0]
    except Exception:  # the reference raises whatever NumPy does: the node stays
        return None


def _make_constant(node: onnx.NodeProto, value: Any) -> None:
    tensor = numpy_helper.from_array(value, node.output[0])
    node.op_type = "Constant"
    del node.input[:]
    del node.attribute[:]
    node.attribute.add(name="value", type=AttributeProto.TENSOR).t.CopyFrom(tensor)
