"""What an output means, read off the graph: probabilities, logits or a vector, and how far two of it are apart."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import Enum
from typing import Any

import onnx_graphsurgeon as gs

from pruneopt.analysis.observe import derived_tensors
from pruneopt.model import Model
from pruneopt.passes.learning.net import Tensors

FLOATS = {"float16", "float32", "float64", "bfloat16"}
PASSED = {"Add", "Identity", "Cast", "Reshape", "Squeeze", "Flatten"}  # what leaves logits logits
TINY = 1e-6


class Meaning(Enum):
    """What an output is."""

    PROBABILITIES = "probabilities"
    LOG_PROBABILITIES = "log probabilities"
    LOGITS = "logits"
    VECTOR = "vector"


def meanings(model: Model) -> dict[str, Meaning]:
    """The meaning of every floating-point output of a model."""
    fixed = derived_tensors(model.graph)
    return {t.name: _meaning(t, fixed) for t in model.outputs if str(t.dtype) in FLOATS}


def _meaning(tensor: gs.Tensor, fixed: Collection[str]) -> Meaning:
    """Softmax makes probabilities; a linear map of `fixed` weights (a table turned round, too) makes several logits."""
    made = tensor.inputs[0].op if tensor.inputs else ""
    if made in ("Softmax", "LogSoftmax"):
        return Meaning.PROBABILITIES if made == "Softmax" else Meaning.LOG_PROBABILITIES
    several = bool(tensor.shape) and isinstance(tensor.shape[-1], int) and tensor.shape[-1] > 1
    return Meaning.LOGITS if several and _is_linear(tensor, fixed) else Meaning.VECTOR


def _is_linear(tensor: gs.Tensor, fixed: Collection[str]) -> bool:
    while tensor.inputs:
        node = tensor.inputs[0]
        data = [t for t in node.inputs if isinstance(t, gs.Variable) and t.name and t.name not in fixed]
        if node.op in ("Gemm", "MatMul"):
            return len(data) == 1
        if node.op not in PASSED or len(data) != 1:
            return False
        tensor = data[0]
    return False


def log_probabilities(tensor: Any, meaning: Meaning) -> Any:
    """Logarithms of the probabilities along the last dimension, shape [rows, classes]."""
    flat = tensor.float().reshape(-1, tensor.shape[-1])
    if meaning is Meaning.LOGITS:
        return flat.log_softmax(-1)
    return flat.clamp_min(TINY).log() if meaning is Meaning.PROBABILITIES else flat


def distance(found: Tensors, dense: Tensors, kinds: Mapping[str, Meaning]) -> Any:
    """How far outputs are from the dense model's, summed over the outputs; a scalar tensor.

    KL(dense || found) for probabilities; squared distance over the dense one's square plus 1 - cosine of the
    last dimension's vectors for others; for logits the divergence and the squared distance, so that a linear map that
    is no classifier is not taken for one alone.
    """
    return sum(_distance(found[name], dense[name], kind) for name, kind in kinds.items())


def _distance(found: Any, dense: Any, kind: Meaning) -> Any:
    if kind in (Meaning.PROBABILITIES, Meaning.LOG_PROBABILITIES):
        return _divergence(found, dense, kind)
    moved = relative(found, dense)
    return moved + (_divergence(found, dense, kind) if kind is Meaning.LOGITS else _turned(found, dense))


def relative(found: Any, dense: Any) -> Any:
    """Squared distance as a share of the dense tensor's square."""
    found, dense = found.float(), dense.float()
    return (found - dense).square().mean() / dense.square().mean().clamp_min(TINY)


def _divergence(found: Any, dense: Any, kind: Meaning) -> Any:
    p, q = log_probabilities(dense, kind), log_probabilities(found, kind)
    return (p.exp() * (p - q)).sum(-1).mean()


def _turned(found: Any, dense: Any) -> Any:
    from torch.nn.functional import cosine_similarity

    if found.ndim == 0 or found.shape[-1] == 1:
        return 0.0
    return 1 - cosine_similarity(found.float(), dense.float(), dim=-1).mean()
