"""`gs.Graph` to GraphProto: constants go back to where they lived, value_info stays out."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import AttributeProto, TensorProto, helper

from pruneopt.frontends import extras
from pruneopt.frontends.external import Bytes, External
from pruneopt.frontends.signature import value_info
from pruneopt.frontends.stored import Array, Sparse, Stored, byte_size, from_array

# Puts the data of a constant somewhere; None: the caller writes this initializer itself, later.
Place = Callable[[gs.Constant], "TensorProto | None"]
Path = tuple[gs.Graph, ...]


def size(constant: gs.Constant) -> int:
    """Bytes of a constant's data in a file; 0 for strings."""
    kept = unedited(constant)
    if kept is not None:
        return int(kept.nbytes)
    array = _array(constant)
    if array.dtype.kind in "OSU":
        return 0
    return byte_size(helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)


def payload(constant: gs.Constant) -> tuple[TensorProto, Bytes | External | None]:
    """Header and data of a constant as they go into a file; strings stay in the header."""
    kept = unedited(constant)
    if kept is None:
        known = extras.of_constant(constant)
        return from_array(_array(constant), known.stored.header if known else None, constant.name)
    return header_of(constant), kept.source


def header_of(constant: gs.Constant) -> TensorProto:
    """The TensorProto of a constant without its data."""
    kept = unedited(constant)
    if kept is None:
        return payload(constant)[0]
    header = TensorProto()
    header.CopyFrom(kept.header)
    header.name = constant.name
    return header


def inline(constant: gs.Constant) -> TensorProto:
    """The complete TensorProto of a constant."""
    header, data = payload(constant)
    if data is not None:
        header.raw_data = (data.bytes() if isinstance(data, External) else data).tobytes()
    return header


def unedited(constant: gs.Constant) -> Stored | None:
    """The stored form of a constant whose values nobody has replaced."""
    values = constant._values
    known = extras.of_constant(constant)
    if isinstance(values, Stored):
        return values
    if known is not None and values is known.stored._unpacked:
        return known.stored
    return None


def _array(constant: gs.Constant) -> Array:
    array = np.asarray(constant.values)
    if constant._export_dtype is None:
        return array
    kind = constant._export_dtype
    return array.astype(helper.tensor_dtype_to_np_dtype(kind) if isinstance(kind, int) else kind)


def sparse(constant: gs.Constant) -> onnx.SparseTensorProto | None:
    """The SparseTensorProto of a constant that came sparse and was not edited."""
    kept = unedited(constant)
    if not isinstance(kept, Sparse):
        return None
    proto = onnx.SparseTensorProto()
    proto.CopyFrom(kept.proto)
    proto.values.name = constant.name
    return proto


def homes(graph: gs.Graph) -> dict[int, list[gs.Constant]]:
    """Constants of every graph, by the id of the graph whose initializers they are, in the order of the file.

    A constant lives where it came from, and never deeper than the innermost graph around all its uses.
    """
    found: dict[int, tuple[gs.Constant, Path]] = {}
    for constant, path in _uses(graph, (graph,)):
        _, common = found.get(id(constant), (constant, path))
        shared = [a for a, b in zip(common, path, strict=False) if a is b]
        found[id(constant)] = (constant, tuple(shared))
    result: dict[int, list[gs.Constant]] = {}
    for constant, path in sorted(found.values(), key=lambda item: _position(item[0])):
        known = extras.of_constant(constant)
        depth = min(known.depth, len(path) - 1) if known else len(path) - 1
        result.setdefault(id(path[depth]), []).append(constant)
    return result


def _uses(graph: gs.Graph, path: Path) -> Iterator[tuple[gs.Constant, Path]]:
    for node in graph.nodes:
        for tensor in node.inputs:
            if isinstance(tensor, gs.Constant):
                yield tensor, path
        for attribute in node.attrs.values():
            if isinstance(attribute, gs.Graph):
                yield from _uses(attribute, (*path, attribute))
    for tensor in graph.outputs:
        if isinstance(tensor, gs.Constant):
            yield tensor, path
    for constant in extras.of_graph(graph).spares:
        yield constant, path


def _position(constant: gs.Constant) -> float:
    known = extras.of_constant(constant)
    return known.position if known else float("inf")


class Exporter:
    """Writes graphs; `place` decides where the data of initializers goes, `ir_version` how they are listed."""

    def __init__(self, root: gs.Graph, place: Place, ir_version: int) -> None:
        self.root = root
        self.place = place
        self.ir_version = ir_version
        self.homes = homes(root)

    def graph(self, graph: gs.Graph) -> onnx.GraphProto:
        side = extras.of_graph(graph)
        constants = self.homes.get(id(graph), [])
        listed = {c.name: c for c in constants if c.name in side.inputs}
        proto = onnx.GraphProto(name=graph.name or "graph", metadata_props=side.metadata)
        if graph.doc_string:
            proto.doc_string = graph.doc_string
        proto.input.extend(value_info(t, side.inputs.get(t.name)) for t in _inputs(graph, listed))
        proto.output.extend(value_info(t, side.outputs.get(t.name)) for t in graph.outputs)
        for constant in constants:
            self.initializer(proto, constant, constant.name in listed)
        proto.node.extend(self.node(node) for node in graph.nodes)
        proto.quantization_annotation.extend(_annotations(proto, side.annotations, constants))
        return proto

    def initializer(self, proto: onnx.GraphProto, constant: gs.Constant, listed: bool) -> None:
        thin = sparse(constant)
        if thin is not None:
            proto.sparse_initializer.append(thin)
        elif self.ir_version < 4 and not listed:
            # Before IR 4 an initializer has to be an input, and the signature must not grow.
            proto.node.append(helper.make_node("Constant", [], [constant.name], value=inline(constant)))
        else:
            tensor = self.place(constant)
            if tensor is not None:
                proto.initializer.append(tensor)

    def node(self, node: gs.Node) -> onnx.NodeProto:
        side = extras.of_node(node)
        proto = onnx.NodeProto(op_type=node.op)
        proto.MergeFrom(side.proto)
        if node.name:
            proto.name = node.name
        if node.domain is not None:
            proto.domain = node.domain
        proto.input.extend(tensor.name for tensor in node.inputs)
        proto.output.extend(tensor.name for tensor in node.outputs)
        for name, value in node.attrs.items():
            proto.attribute.append(self.attribute(name, value, side.kinds.get(name)))
        return proto

    def attribute(self, name: str, value: Any, kind: int | None) -> AttributeProto:
        if isinstance(value, AttributeProto):
            return value
        if isinstance(value, gs.Graph):
            return AttributeProto(name=name, type=AttributeProto.GRAPH, g=self.graph(value))
        if isinstance(value, gs.Constant):
            return AttributeProto(name=name, type=AttributeProto.TENSOR, t=inline(value))
        return plain_attribute(name, value, kind)


def plain_attribute(name: str, value: Any, kind: int | None) -> AttributeProto:
    """AttributeProto of numbers and strings; `kind` says what it was, should the value leave it open."""
    if isinstance(value, np.ndarray | tuple):
        value = list(value)
    several = isinstance(value, list)
    items = value if several else [value]
    proto = AttributeProto(name=name)
    if all(isinstance(item, str | bytes) for item in items) and (items or kind == AttributeProto.STRINGS):
        texts = [item.encode() if isinstance(item, str) else item for item in items]
        if several:
            proto.strings.extend(texts)
        else:
            proto.s = texts[0]
        proto.type = AttributeProto.STRINGS if several else AttributeProto.STRING
    elif _whole(items) and kind not in (AttributeProto.FLOAT, AttributeProto.FLOATS):
        if several:
            proto.ints.extend(int(item) for item in items)
        else:
            proto.i = int(items[0])
        proto.type = AttributeProto.INTS if several else AttributeProto.INT
    elif all(isinstance(item, numbers.Real) for item in items):
        if several:
            proto.floats.extend(float(item) for item in items)
        else:
            proto.f = float(items[0])
        proto.type = AttributeProto.FLOATS if several else AttributeProto.FLOAT
    else:
        raise TypeError(f"attribute '{name}' cannot hold {value!r}")
    return proto


def _whole(items: Iterable[Any]) -> bool:
    return all(isinstance(item, numbers.Integral | np.bool_) for item in items)


def _inputs(graph: gs.Graph, listed: dict[str, gs.Constant]) -> list[gs.Tensor]:
    if not listed:
        return list(graph.inputs)
    variables = {tensor.name: tensor for tensor in graph.inputs}
    known = extras.of_graph(graph).inputs
    ordered = [variables.get(name) or listed.get(name) for name in known]
    new = [tensor for name, tensor in variables.items() if name not in known]
    return [tensor for tensor in ordered if tensor is not None] + new


def _annotations(
    proto: onnx.GraphProto, annotations: Iterable[onnx.TensorAnnotation], constants: Iterable[gs.Constant]
) -> Iterator[onnx.TensorAnnotation]:
    names = {name for node in proto.node for name in (*node.input, *node.output)}
    names.update(info.name for info in proto.input)
    names.update(constant.name for constant in constants)
    return (annotation for annotation in annotations if annotation.tensor_name in names)
