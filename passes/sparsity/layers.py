"""Which weights can become sparse: those of matrix products and convolutions that are large enough to gain by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.analysis.infer import Analysis
from pruneopt.passes.statistics.consumers import Consumer, find_consumers
from pruneopt.passes.untie import shared

SHARED = "used more than once; `untie` before gives each product a copy of its own"
ROUNDED = "its zeros belong before the rounding; make the model sparse, then quantise it"
SMALLEST = 16  # outputs and features: below, a kernel has nothing to skip


@dataclass(frozen=True)
class Layers:
    """The weights of a model.

    Attributes:
        chosen: those that may become sparse, in graph order.
        left: name of every other weight of a matrix product or convolution, and why it stays.
    """

    chosen: Sequence[Consumer]
    left: Mapping[str, str]


def find_layers(analysis: Analysis, only: str, keep: Sequence[str]) -> Layers:
    """Sort the consumers of a graph.

    Args:
        analysis: of the graph.
        only: glob pattern of names of weights, nodes or outputs to choose.
        keep: glob patterns of those that must not change.
    """
    chosen, left = [], _unknown(analysis)
    main = {id(node) for node in analysis.model.graph.nodes}
    for consumer in find_consumers(analysis, columns=True):
        inside = None if id(consumer.node) in main else "inside a control-flow body"
        why = inside or _why_left(consumer, only, keep)
        if why is None:
            chosen.append(consumer)
        else:
            left[consumer.use.constant.name] = why
    return Layers(chosen, left)


def shape(consumer: Consumer) -> tuple[int, int, int]:
    """(groups, outputs, features) of a consumer's matrices."""
    sizes = consumer.use.constant.shape
    outputs = consumer.output_axis.size[0] // consumer.groups
    return consumer.groups, outputs, prod(sizes) // (consumer.groups * outputs)


def _why_left(consumer: Consumer, only: str, keep: Sequence[str]) -> str | None:
    names = (consumer.use.constant.name, consumer.node.name, consumer.name)
    if not any(fnmatchcase(name, only) for name in names):
        return f"not asked for (only={only})"
    if any(fnmatchcase(name, pattern) for name in names for pattern in keep):
        return "kept as asked"
    if consumer.shared:
        return SHARED
    _, outputs, features = shape(consumer)
    if min(outputs, features) < SMALLEST:
        return f"a matrix of {outputs} outputs by {features} features has nothing to gain"
    return None


def _unknown(analysis: Analysis) -> dict[str, str]:
    """Weights of products that are not a plain matrix applied to data."""
    known = {id(c.node) for c in find_consumers(analysis, columns=True)}
    found = {weight.name: SHARED for _, _, weight in shared(analysis.model.graph)}
    for node in analysis.model.graph.nodes:
        found |= {t.name: f"stored in {t.dtype}: {ROUNDED}" for t in node.inputs if _is_rounded(t, node)}
        if node.op in ("MatMul", "Gemm", "Conv", "ConvTranspose") and id(node) not in known:
            plain = [t for t in node.inputs[:2] if isinstance(t, gs.Constant)]
            found |= {t.name: f"this {node.op} is not a plain matrix applied to data" for t in plain}
    return found


def _is_rounded(tensor: gs.Tensor, node: gs.Node) -> bool:
    """Whether a node computes with a constant matrix of a few bits."""
    if not isinstance(tensor, gs.Constant) or len(tensor.shape) < 2:
        return False
    small = np.dtype(tensor.dtype).itemsize == 1 and np.dtype(tensor.dtype).kind != "b"
    return small and (
        node.op.startswith("Dequantize") or any(w in node.op for w in ("MatMul", "Conv", "Gemm"))
    )
