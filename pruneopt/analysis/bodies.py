"""Bodies of If, Loop and Scan as part of the graph: their nodes in order, and a way to look inside.

A body's tensors cannot be returned by a runtime, so a copy of its nodes is run once in the main graph, on
what the body would get: captured tensors as they are, initial loop states, the first slice of a scan.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.model import Model, values

SEEN = "//seen"  # suffix of a copied tensor's name


def nodes_of(graph: gs.Graph) -> Iterator[gs.Node]:
    """All nodes of a graph and its bodies, a control-flow node after its bodies."""
    for node in graph.nodes:
        for body in node.subgraphs():
            yield from nodes_of(body)
        yield node


def has_body(node: gs.Node) -> bool:
    """Whether it is an If, a Loop, a Scan, or another that holds a graph."""
    return any(True for _ in node.subgraphs())


def graphs_of(graph: gs.Graph) -> Iterator[gs.Graph]:
    """The graph itself and all bodies inside."""
    yield graph
    yield from graph.subgraphs(recursive=True)


def inner_tensors(graph: gs.Graph) -> list[str]:
    """Names of the tensors that belong to bodies; empty where two bodies use one name."""
    names = [t.name for b in graph.subgraphs(recursive=True) for t in _own(b)]
    outer = {t.name for n in graph.nodes for t in n.outputs} | {t.name for t in graph.inputs}
    clash = outer & set(names) or any(count > 1 for count in Counter(names).values())
    return [] if clash else names


def _own(body: gs.Graph) -> list[gs.Tensor]:
    return [t for t in (*body.inputs, *(t for n in body.nodes for t in n.outputs)) if t.name]


def opened(model: Model) -> Model:
    """A copy with the nodes of all bodies also in the main graph, their tensors named `name//seen`."""
    copy = model.copy()
    copy.graph.nodes = list(_with_bodies(copy.graph.nodes, {}))
    return copy


def _with_bodies(nodes: list[gs.Node], known: dict[str, gs.Tensor]) -> Iterator[gs.Node]:
    for node in nodes:
        for body in node.subgraphs():
            inner = dict(known)
            yield from _entrances(node, body, inner)
            yield from _with_bodies([_copied(n, inner) for n in body.nodes], inner)
        yield node


def _copied(node: gs.Node, known: dict[str, gs.Tensor]) -> gs.Node:
    """The node on copies of its inner tensors."""
    for tensor in node.outputs:
        if tensor.name:
            known[tensor.name] = gs.Variable(tensor.name + SEEN, tensor.dtype)
    inputs = [_known(t, known) for t in node.inputs]
    outputs = [known.get(t.name, t) for t in node.outputs]
    return gs.Node(node.op, outputs[0].name, dict(node.attrs), inputs, outputs, node.domain)


def _known(tensor: gs.Tensor, known: dict[str, gs.Tensor]) -> gs.Tensor:
    if isinstance(tensor, gs.Constant) and tensor.name not in known:
        known[tensor.name] = gs.Constant(tensor.name + SEEN, values(tensor))
    return known.get(tensor.name, tensor)


def _entrances(node: gs.Node, body: gs.Graph, known: dict[str, gs.Tensor]) -> Iterator[gs.Node]:
    """What the body's inputs are in its first step."""
    scans = node.attrs.get("num_scan_inputs", 0) if node.op == "Scan" else 0
    axes = node.attrs.get("scan_input_axes", [0] * scans)
    for i, tensor in enumerate(body.inputs):
        made = known[tensor.name] = gs.Variable(tensor.name + SEEN, tensor.dtype)
        if node.op == "Loop" and i < 2:  # iteration, condition
            first = gs.Constant(made.name + "0", np.array(0, np.int64) if i == 0 else np.array(True))
            yield gs.Node("Identity", made.name, {}, [first], [made])
            continue
        source = known.get(node.inputs[i].name, node.inputs[i])
        at = i - (len(body.inputs) - scans)
        if at >= 0:
            zero = gs.Constant(made.name + "0", np.array(0, np.int64))
            yield gs.Node("Gather", made.name, {"axis": axes[at]}, [source, zero], [made])
        else:
            yield gs.Node("Identity", made.name, {}, [source], [made])
