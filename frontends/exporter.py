"""`gs.Graph` to GraphProto: constants go back to where they lived, value_info stays out."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import AttributeProto

from pruneopt.frontends import extras
from pruneopt.frontends.signature import value_info
from pruneopt.frontends.weights import fill, sparse

# Adds an initializer to a graph; the last argument says whether it is the main graph.
Place = Callable[[gs.Constant, onnx.GraphProto, bool], None]
Path = tuple[gs.Graph, ...]


def inline(constant: gs.Constant, proto: onnx.GraphProto, main: bool) -> None:
    """A `Place`: the data goes into the initializer."""
    fill(proto.initializer.add(), constant)


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
    """Writes graphs: `place` decides where the data of initializers goes."""

    def __init__(self, root: gs.Graph, place: Place, ir_version: int) -> None:
        self.root = root
        self.place = place
        self.ir_version = ir_version
        self.homes = homes(root)

    def graph(self, graph: gs.Graph, proto: onnx.GraphProto) -> onnx.GraphProto:
        """Fills `proto`, which is empty."""
        side = extras.of_graph(graph)
        constants = self.homes.get(id(graph), [])
        _check_names(constants)
        listed = {c.name: c for c in constants if c.name in side.inputs}
        proto.name = graph.name or "graph"
        proto.metadata_props.extend(side.metadata)
        if graph.doc_string:
            proto.doc_string = graph.doc_string
        proto.input.extend(value_info(t, side.inputs.get(t.name)) for t in _inputs(graph, listed))
        proto.output.extend(value_info(t, side.outputs.get(t.name)) for t in graph.outputs)
        for constant in constants:
            self.initializer(proto, constant, constant.name in listed, graph is self.root)
        for node in graph.nodes:
            self.node(node, proto.node.add())
        proto.quantization_annotation.extend(_annotations(proto, side.annotations, constants))
        return proto

    def initializer(self, proto: onnx.GraphProto, constant: gs.Constant, listed: bool, main: bool) -> None:
        thin = sparse(constant)
        if thin is not None:
            proto.sparse_initializer.append(thin)
        elif self.ir_version < 4 and not listed:
            # Before IR 4 an initializer has to be an input, and the signature must not grow.
            node = proto.node.add(op_type="Constant", output=[constant.name])
            fill(node.attribute.add(name="value", type=AttributeProto.TENSOR).t, constant)
        else:
            self.place(constant, proto, main)

    def node(self, node: gs.Node, proto: onnx.NodeProto) -> None:
        side = extras.of_node(node)
        proto.CopyFrom(side.proto)
        proto.op_type = node.op
        if node.name:
            proto.name = node.name
        if node.domain is not None:
            proto.domain = node.domain
        proto.input.extend(tensor.name for tensor in node.inputs)
        proto.output.extend(tensor.name for tensor in node.outputs)
        for name, value in node.attrs.items():
            self.attribute(name, value, side.kinds.get(name), proto.attribute.add())

    def attribute(self, name: str, value: Any, kind: int | None, proto: AttributeProto) -> None:
        if isinstance(value, AttributeProto):
            proto.CopyFrom(value)
            return
        proto.name = name
        if isinstance(value, gs.Graph):
            proto.type = AttributeProto.GRAPH
            self.graph(value, proto.g)
        elif isinstance(value, gs.Constant):
            proto.type = AttributeProto.TENSOR
            fill(proto.t, value)
        else:
            plain_attribute(proto, value, kind)


def plain_attribute(proto: AttributeProto, value: Any, kind: int | None) -> None:
    """Fills in numbers and strings; `kind` says what it was, should the value leave it open."""
    if isinstance(value, np.ndarray | tuple):
        value = list(value)
    several = isinstance(value, list)
    items = value if several else [value]
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
        raise TypeError(f"attribute '{proto.name}' cannot hold {value!r}")


def _whole(items: Iterable[Any]) -> bool:
    return all(isinstance(item, numbers.Integral | np.bool_) for item in items)


def _check_names(constants: list[gs.Constant]) -> None:
    names: set[str] = set()
    for constant in constants:
        if constant.name in names:
            raise ValueError(f"two constants of a graph are called '{constant.name}'")
        names.add(constant.name)


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
