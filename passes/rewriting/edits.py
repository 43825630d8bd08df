"""Edits of a graph: where a node stands, who reads a tensor, and what makes it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx_graphsurgeon as gs


def place_of(nodes: Sequence[gs.Node], node: gs.Node) -> int:
    """Where a node stands, by identity: nodes that look alike are equal."""
    return next(i for i, each in enumerate(nodes) if each is node)


def ends_of(graph: gs.Graph) -> set[int]:
    """By `id` what a graph and its bodies return."""
    return {id(t) for g in (graph, *graph.subgraphs(recursive=True)) for t in g.outputs}


def only_reader(tensor: gs.Tensor, ends: set[int]) -> gs.Node | None:
    """The node that alone reads a tensor; None where others do, or where it is returned."""
    return tensor.outputs[0] if len(tensor.outputs) == 1 and id(tensor) not in ends else None


def read_instead(old: gs.Tensor, new: gs.Tensor, readers: Iterable[gs.Node] | None = None) -> None:
    """`readers` of `old`, by default all, read `new` instead."""
    for node in list(old.outputs if readers is None else readers):
        for slot, tensor in enumerate(node.inputs):
            if tensor is old:
                node.inputs[slot] = new


def make_instead(old: gs.Tensor, new: gs.Tensor) -> None:
    """What makes `old` makes `new` instead; what reads `old` goes on reading it."""
    maker = old.inputs[0]
    maker.outputs = [new if tensor is old else tensor for tensor in maker.outputs]


def move_inside(output: gs.Variable, name: str) -> gs.Variable:
    """A tensor called `name` that is made and read instead of an output, which can then be made of it anew."""
    inner = gs.Variable(name, output.dtype)
    make_instead(output, inner)
    read_instead(output, inner)
    return inner
