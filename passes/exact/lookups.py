"""Looking every row up in order is a Reshape: what exporters make of a view with strides of its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.analysis.axes import Size
from pruneopt.analysis.observe import Observation

# Positions that these ops make are polynomials in the sizes: two runs that agree do not agree by chance.
POLYNOMIAL = set(
    "Range Mul Add Sub Neg Unsqueeze Squeeze Reshape Expand Cast Identity Shape Size Gather Concat Transpose "
    "Constant ConstantOfShape".split()
)


def reshape_lookups(graph: gs.Graph, seen: Observation) -> None:
    """Gather(x, 0 1 2 ...) -> Reshape(x), where the positions count through the whole axis at every size."""
    for node in graph.nodes:
        if node.op != "Gather" or node.domain not in (None, "", "ai.onnx"):
            continue
        data, out = (seen.shapes.get(t.name) for t in (node.inputs[0], node.outputs[0]))
        if data is None or out is None or not _counts(node, data[node.attrs.get("axis", 0)], seen):
            continue
        shape = target(data, out)
        if shape is not None:
            node.op, node.attrs = "Reshape", {}
            node.inputs[1] = gs.Constant(f"{node.outputs[0].name}//target", np.array(shape, np.int64))


def _counts(node: gs.Node, size: tuple[int, ...], seen: Observation) -> bool:
    positions = seen.values.get(node.inputs[1].name)
    if positions is None or not _is_polynomial(node.inputs[1]):
        return False
    flat = [p.reshape(-1) for p in positions]
    return all(np.array_equal(p, np.arange(n)) for p, n in zip(flat, size, strict=True))


def _is_polynomial(tensor: gs.Tensor) -> bool:
    queue, known = [tensor], set()
    while queue:
        for producer in queue.pop().inputs:
            if producer.op not in POLYNOMIAL:
                return False
            if id(producer) not in known and producer.op not in ("Shape", "Size"):
                known.add(id(producer))
                queue += producer.inputs
    return True


def target(data: Sequence[Size], out: Sequence[Size]) -> list[int] | None:
    """What a Reshape from sizes `data` to sizes `out` is told; None where it takes more than -1 and 0."""
    shape = [
        size[0] if len(set(size)) == 1 else 0 if i < len(data) and data[i] == size else -1
        for i, size in enumerate(out)
    ]
    return shape if shape.count(-1) <= 1 and all(size[0] for size in out) else None
