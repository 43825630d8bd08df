"""Copies of graphs: new nodes, variables and subgraphs; weight arrays are shared."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from pruneopt.frontends import extras


class Cloner:
    """Copies one graph with its subgraphs; a tensor used in several of them is copied once."""

    def __init__(self) -> None:
        self.tensors: dict[int, gs.Tensor] = {}

    def graph(self, old: gs.Graph) -> gs.Graph:
        new = gs.Graph(
            [],
            [self.tensor(t) for t in old.inputs],
            name=old.name,
            doc_string=old.doc_string,
            opset=old.opset,
            import_domains=old.import_domains,
        )
        new.nodes.extend(self.node(node) for node in old.nodes)
        new.outputs = [self.tensor(t) for t in old.outputs]
        new.name_idx = old.name_idx
        side = extras.of_graph(old)
        new.extras = extras.GraphExtras(
            dict(side.inputs), dict(side.outputs), list(side.metadata), list(side.annotations),
            [self.tensor(t) for t in side.spares],
        )  # fmt: skip
        return new

    def node(self, old: gs.Node) -> gs.Node:
        inputs = [self.tensor(t) for t in old.inputs]
        attributes = {name: self.attribute(value) for name, value in old.attrs.items()}
        outputs = [self.tensor(t) for t in old.outputs]
        new = gs.Node(old.op, old.name, attributes, inputs, outputs, old.domain)
        extras.share(old, new)
        return new

    def attribute(self, value: object) -> object:
        if isinstance(value, gs.Graph):
            return self.graph(value)
        if isinstance(value, gs.Tensor):
            return self.tensor(value)
        return list(value) if isinstance(value, list) else value

    def tensor(self, old: gs.Tensor) -> gs.Tensor:
        new = self.tensors.get(id(old))
        if new is None:
            new = self.tensors[id(old)] = _copy(old)
        return new


def _copy(old: gs.Tensor) -> gs.Tensor:
    if isinstance(old, gs.Constant):
        constant = gs.Constant(old.name, old._values, old.data_location, old._export_dtype)
        extras.share(old, constant)
        return constant
    shape = list(old.shape) if old.shape is not None else None
    return gs.Variable(old.name, old.dtype, shape, old.type)
