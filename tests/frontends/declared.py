"""Small models of declared inputs, for feeds to be made for."""

import onnx

from pruneopt.model import Model

FLOAT, UINT8, INT64, STRING, BOOL, BFLOAT16 = 1, 2, 7, 8, 9, 16


def model(text: str) -> Model:
    return Model.from_proto(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}'))


def inputs(*declared: tuple[str, int, list[int | str | None]]) -> Model:
    """A model with these (name, element type, shape) inputs that only counts their elements."""
    infos = [onnx.helper.make_tensor_value_info(*each) for each in declared]
    nodes = [onnx.helper.make_node("Size", [info.name], [f"{info.name}_size"]) for info in infos]
    outputs = [onnx.helper.make_tensor_value_info(f"{info.name}_size", INT64, []) for info in infos]
    graph = onnx.helper.make_graph(nodes, "g", infos, outputs)
    opset = onnx.helper.make_opsetid("", 17)
    return Model.from_proto(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8))
