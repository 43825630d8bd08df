"""Values known before the run become constants."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_graphsurgeon as gs

from pruneopt.arrays import Array
from pruneopt.passes.rewriting.edits import read_instead

SMALL = 4096  # bytes: a value that small is folded in any case


def fold(graph: gs.Graph, static: Mapping[str, Array]) -> None:
    """Values known before the run, by name, become constants; chains of them go as dead code.

    A value is folded at its consumers that are not known themselves, so that no chain is stored twice.
    """
    ends = {t.name for t in graph.outputs}
    for node in list(graph.nodes):
        for out in list(node.outputs):
            value = static.get(out.name)
            if value is None or out.name in ends or not _pays(node, value):
                continue
            outside = [c for c in out.outputs if not _known(c, static)]
            if outside:
                constant = gs.Constant(f"{out.name}", value)
                out.name = f"{out.name}//folded"
                read_instead(out, constant, outside)


def _known(node: gs.Node, static: Mapping[str, Array]) -> bool:
    names = [o.name.removesuffix("//folded") for o in node.outputs if o.name]
    return bool(names) and all(n in static for n in names)


def _pays(node: gs.Node, value: Array) -> bool:
    """Small values always; a large one only where it takes the place of constants that nothing else uses."""
    return value.nbytes <= SMALL or value.nbytes <= _freed(node)


def _freed(node: gs.Node) -> int:
    """Bytes of the constants that nothing needs once the output of `node` is known."""
    cone = {id(node)}
    queue, constants = [node], {}
    while queue:
        for tensor in queue.pop().inputs:
            if isinstance(tensor, gs.Constant):
                constants[id(tensor)] = tensor
            for producer in tensor.inputs:
                if id(producer) not in cone and all(
                    id(c) in cone for o in producer.outputs for c in o.outputs
                ):
                    cone.add(id(producer))
                    queue.append(producer)
    return sum(c._values.nbytes for c in constants.values() if all(id(n) in cone for n in c.outputs))
