"""Edits of a graph: where a node stands, who reads a tensor, and what makes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import onnx_graphsurgeon as gs

from pruneopt.passes.rewriting.names import Names

Inputs = Callable[[gs.Node, list[gs.Tensor]], list[gs.Tensor]]


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


def repeated(
    graph: gs.Graph, chain: Iterable[gs.Node], names: Names, inputs: Inputs = lambda _, given: given
) -> dict[str, gs.Variable]:
    """Copies of nodes of one output each, before their originals; what they make, by the old names.

    They read what the copies before them make, and else what the originals do, or what `inputs` of an original puts
    in the place of that.
    """
    made: dict[str, gs.Variable] = {}
    for node in chain:
        read = inputs(node, [made.get(t.name, t) for t in node.inputs])
        out = gs.Variable(names.new(node.outputs[0].name), node.outputs[0].dtype)
        name = names.new(node.name or node.op)
        copied = gs.Node(node.op, name, dict(node.attrs), read, [out], node.domain)
        graph.nodes.insert(place_of(graph.nodes, node), copied)
        made[node.outputs[0].name] = out
    return made


def move_inside(output: gs.Variable, name: str) -> gs.Variable:
    """A tensor called `name` that is made and read instead of an output, which can then be made of it anew."""
    inner = gs.Variable(name, output.dtype)
    make_instead(output, inner)
    read_instead(output, inner)
    return inner
