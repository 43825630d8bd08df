"""Attention as a single op, written out as products and a softmax, so that tokens can be followed through it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import sqrt

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.frontends.widen import has_halves
from pruneopt.model import Model
from pruneopt.passes.context import Context
from pruneopt.passes.length.emit import END, Emit, order

LEAST = float(np.finfo(np.float32).min)


def opened(model: Model, context: Context) -> Model:
    """`model` with every plain attention op written out; the model itself where there is none.

    Plain means an `Attention` of opset 23 with heads as a dimension of their own, as many of keys as of queries,
    or ONNX Runtime's `MultiHeadAttention` on three tensors; no cache, not causal, no scores among its outputs.
    Others stay.
    """
    shapes = context.observation(model).shapes
    if has_halves(model):
        return model
    copy = model.copy()
    emit = Emit(copy)
    count = len(copy.graph.nodes)
    for node in list(copy.graph.nodes[:count]):
        if _is_plain(node, shapes):
            _write_out(
                emit, node, float(node.attrs.get("scale") or 1 / sqrt(shapes[node.inputs[0].name][3][0]))
            )
        elif _is_fused(node, shapes):
            _unfuse(emit, node, shapes[node.inputs[0].name][2][0])
    return order(copy) if len(copy.graph.nodes) != count else model


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


def _is_fused(node: gs.Node, shapes: dict[str, tuple[tuple[int, ...], ...]]) -> bool:
    if node.op != "MultiHeadAttention" or node.attrs.get("unidirectional", 0):
        return False
    ends = [shapes.get(t.name) for t in node.inputs[:3]]
    extra = [t for t in (*node.inputs[4:5], *node.inputs[6:], *node.outputs[1:]) if t.name]
    return len(ends) == 3 and all(s is not None and len(s) == 3 for s in ends) and not extra


def _unfuse(emit: Emit, node: gs.Node, width: int) -> None:
    """Heads as a dimension of their own, then as any attention; biases and a bias of the scores are added."""
    heads, out = int(node.attrs["num_heads"]), node.outputs[0]
    tensors = list(node.inputs[:3])
    bias = node.inputs[3] if len(node.inputs) > 3 and node.inputs[3].name else None
    added = node.inputs[5] if len(node.inputs) > 5 and node.inputs[5].name else None
    if bias is not None:
        cuts = [0, width, 2 * width, END]
        pieces = [emit.slice(bias, 0, [a], [b]) for a, b in pairwise(cuts)]
        tensors = [emit.op("Add", t, piece) for t, piece in zip(tensors, pieces, strict=True)]
    split = [emit.transpose(emit.op("Reshape", t, [0, 0, heads, -1]), (0, 2, 1, 3)) for t in tensors]
    node.outputs.clear()
    node.inputs.clear()
    scale = float(node.attrs.get("scale") or 1 / sqrt(width // heads))
    mixed = emit.transpose(_mixed(emit, split, scale, added), (0, 2, 1, 3))
    emit.op("Reshape", mixed, [0, 0, -1], out=out)
    emit.model.graph.nodes.remove(node)


def _write_out(emit: Emit, node: gs.Node, scale: float) -> None:
    mask = node.inputs[3] if len(node.inputs) > 3 and node.inputs[3].name else None
    tensors, out = list(node.inputs[:3]), node.outputs[0]
    node.outputs.clear()
    node.inputs.clear()
    added = None if mask is None else _additive(emit, mask)
    _mixed(emit, tensors, scale, added, out)
    emit.model.graph.nodes.remove(node)


def _mixed(
    emit: Emit,
    tensors: Sequence[gs.Tensor],
    scale: float,
    added: gs.Tensor | None,
    out: gs.Variable | None = None,
) -> gs.Variable:
    """softmax(q kT scale + added) v; the scale is shared by both sides, as runtimes do."""
    query, key, value = tensors
    root = np.array(sqrt(scale), np.float32)
    turned = emit.op("Mul", emit.op("Transpose", key, perm=[0, 1, 3, 2]), root)
    scores = emit.op("MatMul", emit.op("Mul", query, root), turned)
    if added is not None:
        scores = emit.op("Add", scores, added)
    return emit.op("MatMul", emit.op("Softmax", scores, axis=-1), value, out=out)


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
