"""Values known before the run become constants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.analysis.axes import Size
from pruneopt.analysis.observe import Observation
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


def settle_reshapes(graph: gs.Graph, seen: Observation) -> None:
    """Computed targets with at most one dynamic entry besides copies of the input's become constants."""
    for node in graph.nodes:
        if (
            node.op != "Reshape"
            or node.domain not in (None, "", "ai.onnx")
            or isinstance(node.inputs[1], gs.Constant)
        ):
            continue
        data, out = seen.shapes.get(node.inputs[0].name), seen.shapes.get(node.outputs[0].name)
        if data is None or out is None:
            continue
        shape = target(data, out)
        if shape is not None:
            node.attrs.pop("allowzero", None)
            node.inputs[1] = gs.Constant(f"{node.outputs[0].name}//target", np.array(shape, np.int64))


def target(data: Sequence[Size], out: Sequence[Size]) -> list[int] | None:
    """What a Reshape from sizes `data` to sizes `out` is told; None where it takes more than -1 and 0."""
    shape = [
        size[0] if len(set(size)) == 1 else 0 if i < len(data) and data[i] == size else -1
        for i, size in enumerate(out)
    ]
    return shape if shape.count(-1) <= 1 and all(size[0] for size in out) else None
