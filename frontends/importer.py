"""GraphProto to `gs.Graph`: every name becomes one object, Constant nodes become constants."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import onnx
import onnx_graphsurgeon as gs
from onnx import AttributeProto, TensorProto, helper

from pruneopt.errors import PruneoptError
from pruneopt.frontends.extras import ConstantExtras, GraphExtras, NodeExtras
from pruneopt.frontends.signature import variable
from pruneopt.frontends.stored import Sparse, Stored, stored

_DEFAULT_DOMAINS = ("", "ai.onnx")
_OPAQUE = (
    AttributeProto.SPARSE_TENSOR, AttributeProto.SPARSE_TENSORS, AttributeProto.TENSORS,
    AttributeProto.TYPE_PROTO, AttributeProto.TYPE_PROTOS,
)  # fmt: skip
_CONSTANT_TYPES = {
    "value_int": TensorProto.INT64,
    "value_ints": TensorProto.INT64,
    "value_float": TensorProto.FLOAT,
    "value_floats": TensorProto.FLOAT,
    "value_string": TensorProto.STRING,
    "value_strings": TensorProto.STRING,
}


class Scope:
    """The tensors that a graph can name: `own` ones, and those of the graphs around it.

    Attributes:
        own: by name.
        outer: that of the graph around this one.
        depth: number of graphs around this one.
    """

    def __init__(self, proto: onnx.GraphProto, outer: Scope | None) -> None:
        self.own: dict[str, gs.Tensor] = {}
        self.outer = outer
        self.depth: int = 0 if outer is None else outer.depth + 1
        self._infos = {info.name: info for info in (*proto.value_info, *proto.output)}

    def read(self, name: str) -> gs.Tensor:
        """The tensor of a name: an own one, else one around; where there is none yet, an own one."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.own:
                return scope.own[name]
            scope = scope.outer
        return self.make(name)

    def make(self, name: str) -> gs.Tensor:
        """The own tensor of a name; nothing has the empty one."""
        if not name:
            return gs.Variable.empty()
        if name not in self.own:
            self.own[name] = variable(name, self._infos.get(name))
        return self.own[name]


class Importer:
    """Builds graphsurgeon graphs; `folder` is where external data lies, `opsets` the model's imports."""

    def __init__(self, folder: Path | None, opsets: Iterable[onnx.OperatorSetIdProto]) -> None:
        self.folder = folder
        self.opsets = list(opsets)
        self.opset = next((o.version for o in self.opsets if o.domain in _DEFAULT_DOMAINS), None)
        self.position = 0

    def graph(
        self,
        proto: onnx.GraphProto,
        weights: Iterable[Stored] | None = None,
        outer: Scope | None = None,
    ) -> gs.Graph:
        """The graph; `weights` stand in for its initializers, `outer` holds the tensors around a subgraph."""
        scope = Scope(proto, outer)
        if weights is None:
            weights = (stored(tensor, self.folder) for tensor in proto.initializer)
        for weight in weights:
            scope.own[weight.header.name] = self.constant(weight.header.name, weight, scope.depth)
        for sparse in proto.sparse_initializer:
            scope.own[sparse.values.name] = self.constant(sparse.values.name, Sparse(sparse), scope.depth)
        initializers = dict(scope.own)
        # An initializer that is also an input (always so in IR 3) is a constant, and stays in the signature.
        inputs = [variable(info.name, info) for info in proto.input if info.name not in scope.own]
        scope.own.update((tensor.name, tensor) for tensor in inputs)
        nodes = self.nodes(proto, scope)
        outputs = [scope.read(info.name) for info in proto.output]
        graph = gs.Graph(
            nodes, inputs, outputs, name=proto.name, doc_string=proto.doc_string, opset=self.opset,
            import_domains=self.opsets,
        )  # fmt: skip
        graph.extras = _graph_extras(proto, initializers)
        return graph

    def constant(self, name: str, values: Stored, depth: int) -> gs.Constant:
        constant = gs.Constant(name, values)
        constant.extras = ConstantExtras(values, depth, self.position)
        self.position += 1
        return constant

    def nodes(self, proto: onnx.GraphProto, scope: Scope) -> list[gs.Node]:
        # A runtime wants a graph output to be computed by a node: such Constant nodes stay.
        outputs = {info.name for info in proto.output}
        nodes = []
        for node in proto.node:
            values = None
            if _is_constant(node) and node.output[0] not in outputs:
                values = self.constant_node(node)
            if values is None:
                nodes.append(self.node(node, scope))
            else:
                scope.own[node.output[0]] = self.constant(node.output[0], values, scope.depth)
        return nodes

    def constant_node(self, node: onnx.NodeProto) -> Stored | None:
        """The value of a Constant node in any of its spellings; None when it has none that is known."""
        name = node.output[0]
        for attribute in node.attribute:
            if attribute.name == "value":
                return _renamed(stored(attribute.t, self.folder), name)
            if attribute.name == "sparse_value":
                sparse = Sparse(attribute.sparse_tensor)
                sparse.proto.values.name = name
                return _renamed(sparse, name)
            if attribute.name in _CONSTANT_TYPES:
                value = helper.get_attribute_value(attribute)
                dims = [len(value)] if isinstance(value, list) or attribute.name.endswith("s") else []
                kind = _CONSTANT_TYPES[attribute.name]
                return stored(helper.make_tensor(name, kind, dims, value if dims else [value]), None)
        return None

    def node(self, proto: onnx.NodeProto, scope: Scope) -> gs.Node:
        inputs = [scope.read(name) for name in proto.input]
        attributes = {a.name: self.attribute(proto, a, scope) for a in proto.attribute}
        outputs = [scope.make(name) for name in proto.output]
        domain = proto.domain if proto.HasField("domain") else None
        node = gs.Node(proto.op_type, proto.name, attributes, inputs, outputs, domain)
        bare = onnx.NodeProto(metadata_props=proto.metadata_props)
        for field in ("doc_string", "overload"):
            if proto.HasField(field):
                setattr(bare, field, getattr(proto, field))
        bare.device_configurations.extend(proto.device_configurations)
        node.extras = NodeExtras(bare, {a.name: a.type for a in proto.attribute})
        return node

    def attribute(self, node: onnx.NodeProto, proto: AttributeProto, scope: Scope) -> Any:
        """Value of an attribute as graphsurgeon has it; kinds that it lacks stay an AttributeProto."""
        if proto.type == AttributeProto.GRAPH:
            return self.graph(proto.g, outer=scope)
        if proto.type == AttributeProto.TENSOR:
            return self.constant(proto.t.name, stored(proto.t, self.folder), scope.depth)
        if proto.type == AttributeProto.STRING:
            return _text(proto.s)
        if proto.type == AttributeProto.STRINGS:
            return [_text(text) for text in proto.strings]
        if proto.type in (AttributeProto.FLOATS, AttributeProto.INTS):
            return list(helper.get_attribute_value(proto))
        if proto.type in (AttributeProto.FLOAT, AttributeProto.INT):
            return helper.get_attribute_value(proto)
        if proto.type in _OPAQUE and not proto.ref_attr_name:
            opaque = AttributeProto()
            opaque.CopyFrom(proto)
            return opaque
        raise PruneoptError(
            f"{node.op_type} '{node.name}': attribute '{proto.name}' has a kind that pruneopt does not read "
            f"({AttributeProto.AttributeType.Name(proto.type)}): remove it or export the model another way"
        )


def _is_constant(node: onnx.NodeProto) -> bool:
    return node.op_type == "Constant" and node.domain in _DEFAULT_DOMAINS


def _renamed(values: Stored, name: str) -> Stored:
    values.header.name = name
    return values


def _text(value: bytes) -> str | bytes:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def _graph_extras(proto: onnx.GraphProto, initializers: dict[str, gs.Tensor]) -> GraphExtras:
    def copies(entries: Iterable[Any]) -> list[Any]:
        # A reference to a part would keep the whole message alive, weights included.
        return [type(entry).FromString(entry.SerializeToString()) for entry in entries]

    annotations = copies(proto.quantization_annotation)
    named = {entry.value for a in annotations for entry in a.quant_parameter_tensor_names}
    return GraphExtras(
        inputs={info.name: info for info in copies(proto.input)},
        outputs={info.name: info for info in copies(proto.output)},
        metadata=copies(proto.metadata_props),
        annotations=annotations,
        spares=[initializers[name] for name in sorted(named & initializers.keys())],
    )
