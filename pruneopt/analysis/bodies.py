"""Bodies of If, Loop and Scan as part of the graph: their nodes in order, and a way to look inside.

A body's tensors cannot be returned by a runtime, so a copy of its nodes is run once in the main graph, on
what the body would get: captured tensors as they are, initial loop states, the first slice of a scan.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.model import Model, values

SEEN = "//seen"  # suffix of a copied tensor's name


def nodes_of(graph: gs.Graph, closed: Collection[int] = ()) -> Iterator[gs.Node]:
    """All nodes of a graph and its bodies, a control-flow node after its bodies; not of `closed` ones, by `id`."""
    for node in graph.nodes:
        for body in node.subgraphs():
            if id(body) not in closed:
                yield from nodes_of(body, closed)
        yield node


def closed_bodies(graph: gs.Graph, known: Collection[str]) -> set[int]:
    """Bodies, by `id`, of which not all tensors are `known`; all where two use one name."""
    clash = not inner_tensors(graph)
    bodies = graph.subgraphs(recursive=True)
    return {id(body) for body in bodies if clash or any(t.name not in known for t in _own(body))}


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


def opened(model: Model, closed: Collection[tuple[str, str]] = ()) -> Model:
    """A copy with the nodes of all bodies also in the main graph, their tensors named `name//seen`.

    Args:
        model: what to copy.
        closed: bodies that stay as they are: the name of their node's first output, and of the attribute.
    """
    copy = model.copy()
    copy.graph.nodes = list(_with_bodies(copy.graph.nodes, {}, {}, closed))
    return copy


def _with_bodies(
    nodes: list[gs.Node],
    known: dict[str, gs.Tensor],
    constants: dict[int, gs.Constant],
    closed: Collection[tuple[str, str]],
) -> Iterator[gs.Node]:
    for node in nodes:
        ends: dict[str, gs.Graph] = {}
        for place, body in node.attrs.items():
            if isinstance(body, gs.Graph) and (node.outputs[0].name, place) not in closed:
                inner = dict(known)
                yield from _entrances(node, body, inner)
                copies = [_copied(n, inner, constants) for n in body.nodes]
                yield from _with_bodies(copies, inner, constants, closed)
                ends[place] = _handing_on(body, inner)
        if known and node.op == "If":  # its branches read what is there under other names now
            node.attrs |= ends
        yield node


def _handing_on(body: gs.Graph, known: dict[str, gs.Tensor]) -> gs.Graph:
    """A branch that only hands on what the copies of a branch's nodes make."""
    outputs = [gs.Variable(f"{t.name}{SEEN}{SEEN}", t.dtype, t.shape) for t in body.outputs]
    nodes = [
        gs.Node("Identity", out.name, {}, [known.get(t.name, t)], [out])
        for t, out in zip(body.outputs, outputs, strict=True)
    ]
    return gs.Graph(nodes, [], outputs, name=body.name, opset=body.opset)


def _copied(node: gs.Node, known: dict[str, gs.Tensor], constants: dict[int, gs.Constant]) -> gs.Node:
    """The node on copies of its inner tensors."""
    for tensor in node.outputs:
        if tensor.name:
            known[tensor.name] = gs.Variable(tensor.name + SEEN, tensor.dtype)
    inputs = [
        _constant(t, constants) if isinstance(t, gs.Constant) else known.get(t.name, t) for t in node.inputs
    ]
    outputs = [known.get(t.name, t) for t in node.outputs]
    return gs.Node(node.op, outputs[0].name, dict(node.attrs), inputs, outputs, node.domain)


def _constant(tensor: gs.Constant, constants: dict[int, gs.Constant]) -> gs.Constant:
    """A copy of its own name: bodies may share a constant, or a name."""
    if id(tensor) not in constants:
        constants[id(tensor)] = gs.Constant(f"{tensor.name}{SEEN}{len(constants)}", values(tensor))
    return constants[id(tensor)]


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
