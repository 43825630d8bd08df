"""What a model's outputs are, as far as the graph and the data tell: probabilities, scores of classes, or values."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.arrays import Array
from pruneopt.model import values

SPREADING = ("Reshape", "Expand", "Unsqueeze", "Identity")
APART = 1.25  # classes told apart, at least
MANY = 1000  # entries; there are not as many coordinates
CLASSES = 10  # at least: fewer numbers of any kind may look so


def is_softmax(tensor: gs.Tensor) -> bool:
    """Whether a softmax makes it, be it written out: x / ReduceSum(x) of x = Exp(...)."""
    if not tensor.inputs:
        return False
    node = tensor.inputs[0]
    if node.op != "Div":
        return bool(node.op == "Softmax")
    share, whole = node.inputs
    while whole.inputs and whole.inputs[0].op in SPREADING:
        whole = whole.inputs[0].inputs[0]
    if [t.inputs[0].op for t in (share, whole) if t.inputs] != ["Exp", "ReduceSum"]:
        return False
    total = whole.inputs[0]
    last = [-1] if tensor.shape is None else [-1, len(tensor.shape) - 1]
    return total.inputs[0] is share and _axes(total) in [[axis] for axis in last]


def _axes(node: gs.Node) -> list[int]:
    if len(node.inputs) > 1 and isinstance(node.inputs[1], gs.Constant):
        return [int(axis) for axis in values(node.inputs[1]).reshape(-1)]
    return list(node.attrs.get("axes", []))


def is_linear(tensor: gs.Tensor) -> bool:
    """Whether a matrix product makes it, with a bias or without."""
    if not tensor.inputs:
        return False
    node = tensor.inputs[0]
    if node.op == "Add":
        return any(isinstance(t, gs.Constant) for t in node.inputs) and any(map(is_linear, node.inputs))
    return node.op in ("Gemm", "MatMul")


def told_apart(rows: Array) -> float:
    """Classes that rows [rows, entries] tell apart, if they look like scores that a softmax makes these of; else 0.

    That is e^I, with I = H(mean of p) - mean of H(p), of p, the softmax of a row. Cross-entropy's gradients sum to zero
    over the classes, so that scores lie around zero, as coordinates do not (those of language models drift); their
    softmax knows more than half of what there is to know, as that of an embedding does not; and what it knows is of the
    row, as it is not where one entry is always the largest.
    """
    if not len(rows) or rows.shape[-1] < CLASSES:
        return 0.0
    rows = rows.astype(np.float64)
    centred = rows.shape[-1] >= MANY or abs(rows.mean()) < rows.std(axis=1).mean()
    if not centred or not np.isfinite(rows).all():
        return 0.0
    share = np.exp(log_softmax(rows))
    own, common = float(_entropy(share).mean()), float(_entropy(share.mean(axis=0)))
    told = float(np.exp(common - own))
    return told if own <= np.log(rows.shape[-1]) / 2 and told >= APART else 0.0


def log_softmax(rows: Array) -> Array:
    """Along the last dimension."""
    below = rows - rows.max(axis=-1, keepdims=True)
    return np.asarray(below - np.log(np.exp(below).sum(axis=-1, keepdims=True)))


def _entropy(share: Array) -> Array:
    return np.asarray(-(share * np.log(np.maximum(share, np.finfo(float).tiny))).sum(axis=-1))
