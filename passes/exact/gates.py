"""Hard sigmoids that are spelt out become one op, whose product runtimes keep in the order that convolutions like.

    clip(x + c, 0, h) = h HardSigmoid(x; alpha = 1 / h, beta = c / h)

The factor h goes behind the product of a hard swish, x clip(x + c, 0, h), so that it meets the division by h.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.model import values
from pruneopt.passes.exact.affine import Shapes, step_of
from pruneopt.passes.rewriting.edits import ends_of, only_reader, place_of
from pruneopt.passes.rewriting.names import Names


def use_hard_sigmoids(graph: gs.Graph, shapes: Shapes) -> None:
    """Replaces what comes to one, where its factor meets another."""
    names = Names(graph)
    ends = ends_of(graph)
    found = [each for node in graph.nodes if (each := _spelt(node, shapes, ends)) is not None]
    for clip, data, shift, height in found:
        product = _product(clip, data, ends)
        last = product or clip
        if _meets_a_factor(last, shapes, ends):
            gated = _replace(graph, clip, product, data, (1 / height, shift / height, height), names)
            shapes[gated.name] = shapes[data.name]


def _spelt(clip: gs.Node, shapes: Shapes, ends: set[int]) -> tuple[gs.Node, gs.Tensor, float, float] | None:
    """(the Clip, x, c, h) where a node is clip(x + c, 0, h)."""
    low, high = _bounds(clip) if clip.op == "Clip" else (None, None)
    add = clip.inputs[0].inputs[0] if low == 0 and high and clip.inputs[0].inputs else None
    if add is None or high is None or not np.isfinite(high) or add.op != "Add":
        return None
    step = step_of(add, shapes)
    alone = only_reader(clip.inputs[0], ends) is not None
    constant = next((t for t in add.inputs if isinstance(t, gs.Constant)), None)
    if step is None or constant is None or constant.dtype != np.float32 or step.shift.size != 1 or not alone:
        return None
    return clip, step.data, float(step.shift[0]), high


def _bounds(clip: gs.Node) -> tuple[float | None, float | None]:
    if len(clip.inputs) < 3:
        return clip.attrs.get("min"), clip.attrs.get("max")
    found = [float(values(t)) if isinstance(t, gs.Constant) else None for t in clip.inputs[1:3]]
    return found[0], found[1]


def _product(clip: gs.Node, data: gs.Tensor, ends: set[int]) -> gs.Node | None:
    """The node that multiplies x by the Clip's output, if nothing else reads that."""
    reader = only_reader(clip.outputs[0], ends)
    gated = reader is not None and reader.op == "Mul" and any(t is data for t in reader.inputs)
    return reader if gated else None


def _meets_a_factor(node: gs.Node, shapes: Shapes, ends: set[int]) -> bool:
    reader = only_reader(node.outputs[0], ends)
    return reader is not None and reader.op in ("Mul", "Div") and step_of(reader, shapes) is not None


def _replace(
    graph: gs.Graph,
    clip: gs.Node,
    product: gs.Node | None,
    data: gs.Tensor,
    numbers: tuple[float, float, float],
    names: Names,
) -> gs.Tensor:
    """Puts the gate, and its product, where they were spelt out; returns what the factor is still missing in."""
    alpha, beta, height = numbers
    last = product or clip
    result, at = last.outputs[0], place_of(graph.nodes, last)
    gate = gs.Variable(names.new(f"{clip.outputs[0].name}_gate"), np.float32)
    made = [gs.Node("HardSigmoid", names.new(gate.name), {"alpha": alpha, "beta": beta}, [data], [gate])]
    if product is not None:
        out = gs.Variable(names.new(f"{result.name}_gated"), np.float32)
        made.append(gs.Node("Mul", names.new(out.name), {}, [data, gate], [out]))
    factor = gs.Constant(names.new(f"{result.name}_factor"), np.array(height, np.float32))
    last.outputs.clear()
    gated = made[-1].outputs[0]
    made.append(gs.Node("Mul", names.new(factor.name), {}, [gated, factor], [result]))
    graph.nodes[at:at] = made
    return gated
