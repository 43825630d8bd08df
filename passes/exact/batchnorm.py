"""BatchNormalization with stored statistics, folded into the linear op before it."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.arrays import Array
from pruneopt.model import values
from pruneopt.passes.rewriting.names import Names


def fold_batchnorms(graph: gs.Graph) -> None:
    """Conv(x) * s + t -> Conv'(x) with W' = W s and b' = b s + t along the output channels."""
    names = Names(graph)
    ends = {t.name for t in graph.outputs}
    for norm in graph.nodes:
        linear = _foldable(norm, ends)
        if linear is not None:
            _fold(norm, linear, names)


def _foldable(norm: gs.Node, ends: set[str]) -> gs.Node | None:
    """The linear node whose only reader is `norm`, if all weights are constants of one type."""
    if norm.op != "BatchNormalization" or norm.attrs.get("training_mode", 0) or len(norm.outputs) > 1:
        return None
    data, *statistics = norm.inputs
    linear = data.inputs[0] if data.inputs else None
    if (
        linear is None
        or linear.op not in ("Conv", "ConvTranspose", "Gemm")
        or len(data.outputs) > 1
        or data.name in ends
    ):
        return None
    if linear.op == "Gemm" and (linear.attrs.get("alpha", 1.0), linear.attrs.get("beta", 1.0)) != (1.0, 1.0):
        return None
    weights = [*linear.inputs[1:], *statistics]
    same = len({str(w.dtype) for w in weights}) == 1
    return linear if same and all(isinstance(w, gs.Constant) for w in weights) else None


def _fold(norm: gs.Node, linear: gs.Node, names: Names) -> None:
    scale, shift, mean, variance = (values(t).astype(np.float64) for t in norm.inputs[1:5])
    factor = scale / np.sqrt(variance + norm.attrs.get("epsilon", 1e-5))
    weight = values(linear.inputs[1])
    bias = values(linear.inputs[2]).astype(np.float64) if len(linear.inputs) > 2 else np.zeros(())
    old_bias = linear.inputs[2] if len(linear.inputs) > 2 else norm.inputs[2]
    made = [
        (names.instead(linear.inputs[1], "folded"), _scaled(linear, weight.astype(np.float64), factor)),
        (names.instead(old_bias, "folded"), (bias - mean) * factor + shift),
    ]
    linear.inputs = [
        linear.inputs[0],
        *(gs.Constant(name, value.astype(weight.dtype)) for name, value in made),
    ]
    result = norm.outputs[0]
    norm.inputs.clear()
    norm.outputs.clear()
    linear.outputs[0] = result


def _scaled(linear: gs.Node, weight: Array, factor: Array) -> Array:
    """`weight` with each output channel times its factor, wherever the op keeps that dimension."""
    if linear.op == "Conv":  # [(g o), i, ...]
        return np.asarray(weight * factor.reshape(-1, *[1] * (weight.ndim - 1)))
    if linear.op == "Gemm":
        return np.asarray(weight * (factor[:, None] if linear.attrs.get("transB", 0) else factor))
    groups = linear.attrs.get("group", 1)  # ConvTranspose: [(g i), o, ...]
    split = weight.reshape(groups, -1, *weight.shape[1:])
    wide = factor.reshape(groups, 1, -1, *[1] * (weight.ndim - 2))
    return np.asarray((split * wide).reshape(weight.shape))
