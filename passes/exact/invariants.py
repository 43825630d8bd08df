"""What a loop hands on unchanged is no state: its body reads it where it comes from.

Loop(s) { body(x): ...; return x }  ->  Loop() { body reads s };  what comes out is s, after any number of steps
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_graphsurgeon as gs

from pruneopt.analysis.bodies import graphs_of, nodes_of


def free_invariants(graph: gs.Graph) -> None:
    """Takes states that no step changes out of every Loop and Scan, in place."""
    for home in list(graphs_of(graph)):
        for node in home.nodes:
            if node.op in ("Loop", "Scan"):
                _free(home, node)


def _free(home: gs.Graph, node: gs.Node) -> None:
    body = node.attrs["body"]
    ends = {t.name for t in home.outputs}
    for into, out, state in reversed(list(_states(node, body))):
        inner, outer, result = body.inputs[into], node.inputs[into], node.outputs[out]
        returned = [t for i, t in enumerate(body.outputs) if i != state]
        returned += [t for deeper in body.subgraphs(recursive=True) for t in deeper.outputs]
        if _source(body.outputs[state]).name != inner.name or result.name in ends:
            continue
        if any(t.name == inner.name for t in returned):  # a body cannot return what it only reads
            continue
        _replace(nodes_of(body), inner, outer)
        _replace(nodes_of(home), result, outer)
        del body.inputs[into], body.outputs[state], node.inputs[into], node.outputs[out]


def _states(node: gs.Node, body: gs.Graph) -> Iterator[tuple[int, int, int]]:
    """Of each state: its place among the inputs, among what the node returns, and among what the body returns."""
    if node.op == "Loop":
        for i in range(len(body.inputs) - 2):
            yield i + 2, i, i + 1
    elif len(node.inputs) == len(body.inputs):  # before opset 9 there is an input more
        for i in range(len(body.inputs) - node.attrs["num_scan_inputs"]):
            yield i, i, i


def _source(tensor: gs.Tensor) -> gs.Tensor:
    """What a tensor is a copy of."""
    while tensor.inputs and tensor.inputs[0].op == "Identity":
        tensor = tensor.inputs[0].inputs[0]
    return tensor


def _replace(nodes: Iterator[gs.Node], old: gs.Tensor, new: gs.Tensor) -> None:
    for node in list(nodes):
        for slot, tensor in enumerate(node.inputs):
            if tensor.name and tensor.name == old.name:
                node.inputs[slot] = new
