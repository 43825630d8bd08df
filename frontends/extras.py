"""What a model says and onnx-graphsurgeon has no place for, kept on its objects as the attribute `extras`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import onnx
import onnx_graphsurgeon as gs

from pruneopt.frontends.stored import Stored


@dataclass
class GraphExtras:
    """Beside a `gs.Graph`; inputs and outputs by name, in the order of the file."""

    inputs: dict[str, onnx.ValueInfoProto] = field(default_factory=dict)
    outputs: dict[str, onnx.ValueInfoProto] = field(default_factory=dict)
    metadata: list[onnx.StringStringEntryProto] = field(default_factory=list)
    annotations: list[onnx.TensorAnnotation] = field(default_factory=list)
    spares: list[gs.Constant] = field(default_factory=list)  # constants that only annotations refer to


@dataclass
class NodeExtras:
    """Beside a `gs.Node`: doc string and metadata in a bare NodeProto, and the kind of each attribute."""

    proto: onnx.NodeProto
    kinds: dict[str, int]


@dataclass
class ConstantExtras:
    """Beside a `gs.Constant`: its stored form, how deep in subgraphs it lived, its place in the file."""

    stored: Stored
    depth: int
    position: int


def of_graph(graph: gs.Graph) -> GraphExtras:
    found = vars(graph).get("extras")
    return found if isinstance(found, GraphExtras) else GraphExtras()


def of_node(node: gs.Node) -> NodeExtras:
    found = vars(node).get("extras")
    return found if isinstance(found, NodeExtras) else NodeExtras(onnx.NodeProto(), {})


def of_constant(constant: gs.Constant) -> ConstantExtras | None:
    found = vars(constant).get("extras")
    return found if isinstance(found, ConstantExtras) else None


def share(old: Any, new: Any) -> None:
    """Gives `new` the extras of `old`, which are never edited in place."""
    if "extras" in vars(old):
        new.extras = old.extras
