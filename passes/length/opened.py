"""Attention as a single op, written out as products and a softmax, so that tokens can be followed through it."""

from __future__ import annotations

from math import sqrt

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.frontends.widen import has_halves
from pruneopt.model import Model
from pruneopt.passes.base import Context
from pruneopt.passes.length.emit import Emit, order

LEAST = float(np.finfo(np.float32).min)


def opened(model: Model, context: Context) -> Model:
    """`model` with every plain `Attention` of opset 23 written out; the model itself where there is none.

    Plain means heads as a dimension of their own, as many of keys as of queries, no cache, not causal, and
    no scores among its outputs; others stay.
    """
    shapes = context.observation(model).shapes
    if has_halves(model) or not any(_is_plain(node, shapes) for node in model.graph.nodes):
        return model
    copy = model.copy()
    emit = Emit(copy)
    for node in [n for n in copy.graph.nodes if _is_plain(n, shapes)]:
        width = shapes[node.inputs[0].name][3][0]
        _write_out(
            emit, node, float(node.attrs.get("scale") or 1 / sqrt(width)), context.observation(model).shapes
        )
    return order(copy)


def _is_plain(node: gs.Node, shapes: dict[str, tuple[tuple[int, ...], ...]]) -> bool:
    if node.op != "Attention" or node.domain not in (None, "", "ai.onnx") or node.attrs.get("is_causal", 0):
        return False
    ends = [shapes.get(t.name) for t in node.inputs[:3]]
    heads = {s[1] for s in ends if s is not None and len(s) == 4}
    extra = [t for t in (*node.inputs[4:], *node.outputs[1:]) if t.name]
    mask = node.inputs[3] if len(node.inputs) > 3 and node.inputs[3].name else None
    known = mask is None or mask.dtype is not None or mask.inputs
    plain = all(s is not None and len(s) == 4 for s in ends) and len(heads) == 1 and not extra
    return bool(plain and known and not node.attrs.get("softcap", 0.0))


def _write_out(
    emit: Emit, node: gs.Node, scale: float, shapes: dict[str, tuple[tuple[int, ...], ...]]
) -> None:
    """softmax(q kT scale + mask) v; the scale is shared by both sides, as runtimes do."""
    query, key, value = node.inputs[:3]
    root = np.array(sqrt(scale), np.float32)
    scores = emit.op(
        "MatMul",
        emit.op("Mul", query, root),
        emit.op("Mul", emit.op("Transpose", key, perm=[0, 1, 3, 2]), root),
    )
    mask = node.inputs[3] if len(node.inputs) > 3 and node.inputs[3].name else None
    if mask is not None:
        scores = emit.op("Add", scores, _additive(emit, mask))
    out = node.outputs[0]
    node.outputs.clear()
    node.inputs.clear()
    emit.op("MatMul", emit.op("Softmax", scores, axis=-1), value, out=out)
    emit.model.graph.nodes.remove(node)


BOOLEAN = {"And", "Or", "Not", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Xor", "IsNaN"}
CARRIERS = {
    "Expand",
    "Unsqueeze",
    "Squeeze",
    "Reshape",
    "Slice",
    "Gather",
    "GatherND",
    "Transpose",
    "Identity",
}


def _additive(emit: Emit, mask: gs.Tensor) -> gs.Tensor:
    """A mask of booleans as numbers to add."""
    tensor = mask
    while tensor.inputs and tensor.inputs[0].op in CARRIERS:
        tensor = tensor.inputs[0].inputs[0]
    maker = tensor.inputs[0] if tensor.inputs else None
    boolean = tensor.dtype == bool or (
        maker is not None and (maker.op in BOOLEAN or maker.attrs.get("to") == 9)
    )
    return emit.op("Where", mask, np.float32(0), np.float32(LEAST)) if boolean else mask
