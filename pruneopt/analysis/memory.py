"""How much memory a run needs besides weights: which tensors are alive at each node, as functions of sizes.

Nodes run in graph order, tensors are freed after their last use, and ops that only rename a tensor's
dimensions work on its memory. What is made of constants alone is there from the start, like a weight. Runtimes plan
better where they can (in place), and the ratio of two models holds for them all the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from pruneopt.analysis.observe import Observation, derived_tensors
from pruneopt.model import Model

VIEWS = {"Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"}
TRUTHS = set("And Equal Greater GreaterOrEqual IsInf IsNaN Less LessOrEqual Not Or Xor".split())
COUNTS = {"ArgMax", "ArgMin", "NonZero", "Shape", "Size"}


@dataclass(frozen=True)
class Live:
    """A tensor in memory.

    Attributes:
        name: of the tensor.
        itemsize: bytes of an element.
        span: the nodes, by position in the graph, during which it is there.
    """

    name: str
    itemsize: int
    span: slice


def live_tensors(graph: gs.Graph) -> list[Live]:
    """Every tensor of the main graph that has memory of its own; bodies of control flow are left out."""
    owner = _owners(graph)
    last: dict[str, int] = {}
    first = {t.name: 0 for t in graph.inputs}
    for i, node in enumerate(graph.nodes):
        for tensor in _reads(node):
            last[owner.get(tensor.name, tensor.name)] = i
        first |= {t.name: i for t in node.outputs if t.name and owner[t.name] == t.name}
    for name in derived_tensors(graph, shapes=False):
        first.pop(name, None)
    end = len(graph.nodes) - 1
    last |= {owner.get(t.name, t.name): end for t in graph.outputs}
    sizes = _itemsizes(graph)
    return [Live(n, sizes.get(n, 4), slice(i, last.get(n, i) + 1)) for n, i in first.items()]


def activation_bytes(model: Model, seen: Observation, run: int = -1) -> int:
    """Peak of the bytes of all tensors that are alive at once, at observation `run`; weights are left out."""
    sums = np.zeros(len(model.graph.nodes) or 1, np.int64)
    for tensor in live_tensors(model.graph):
        shape = seen.shapes.get(tensor.name, ())
        sums[tensor.span] += tensor.itemsize * prod(size[run] for size in shape)
    return int(sums.max())


def _owners(graph: gs.Graph) -> dict[str, str]:
    """The tensor whose memory each tensor uses."""
    owner: dict[str, str] = {}
    for node in graph.nodes:
        source = node.inputs[0] if node.op in VIEWS and node.inputs else None
        for tensor in node.outputs:
            viewed = isinstance(source, gs.Variable)
            owner[tensor.name] = owner.get(source.name, source.name) if viewed and source else tensor.name
    return owner


def _reads(node: gs.Node) -> Iterator[gs.Tensor]:
    yield from node.inputs
    for body in node.subgraphs(recursive=True):
        for inner in body.nodes:
            yield from inner.inputs


def _itemsizes(graph: gs.Graph) -> dict[str, int]:
    """Bytes per element, as declared or as the op says; most ops give what they get."""
    found = {t.name: _bytes(t.dtype) for t in graph.inputs if t.dtype is not None}
    for node in graph.nodes:
        given = [_bytes(t.dtype) if isinstance(t, gs.Constant) else found.get(t.name, 4) for t in node.inputs]
        for tensor in node.outputs:
            found[tensor.name] = _bytes(tensor.dtype) if tensor.dtype is not None else _made(node, given)
    return found


def _made(node: gs.Node, given: Sequence[int]) -> int:
    if node.op in TRUTHS:
        return 1
    if node.op in COUNTS:
        return 8
    if node.op in ("Cast", "ConstantOfShape"):
        return _bytes(node.attrs["to"]) if "to" in node.attrs else 4
    slot = 1 if node.op == "Where" else 0
    return given[slot] if slot < len(given) else 4


def _bytes(dtype: object) -> int:
    if isinstance(dtype, int):
        dtype = onnx.helper.tensor_dtype_to_np_dtype(dtype)
    try:
        return np.dtype(dtype).itemsize  # type: ignore[call-overload, no-any-return]
    except TypeError:  # text has no size
        return 0
