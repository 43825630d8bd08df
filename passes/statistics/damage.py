"""How far a changed model's outputs are from the original's, as one number that adds up over small changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.arrays import Array, Feeds
from pruneopt.model import Model, values
from pruneopt.passes.context import Context

Outputs = list[dict[str, Array]]
TINY = 1e-12
BLOCK = 1 << 14  # elements that are compared at once
MOST = 1 << 25  # elements of one output that are kept over all batches
SPREADING = ("Reshape", "Expand", "Unsqueeze", "Identity")


def outputs(model: Model, context: Context, batches: Sequence[Feeds]) -> Outputs:
    """The floating-point outputs of every batch; of large ones some rows, the same for every model."""
    session = context.session(model)
    found = []
    for i, batch in enumerate(batches):
        made = session.run(batch)
        context.ran(batch)
        found.append(kept(made, len(batches), [context.seed, i]))
    return found


def kept(made: Mapping[str, Any], count: int, seed: Sequence[int]) -> dict[str, Array]:
    """Of what one of so many batches came to, what is compared."""
    return {
        name: _some_rows(array, MOST // count, seed)
        for name, array in made.items()
        if isinstance(array, np.ndarray) and array.dtype.kind in "fV"
    }


def _some_rows(array: Array, most: int, seed: Sequence[int]) -> Array:
    """At most `most` elements, in whole rows along the last dimension."""
    if array.size <= most or array.ndim < 2:
        return array
    rows = array.reshape(-1, array.shape[-1])
    chosen = np.random.default_rng(seed).choice(len(rows), max(1, most // rows.shape[1]), replace=False)
    return np.ascontiguousarray(rows[np.sort(chosen)])


def distributions(graph: gs.Graph) -> set[str]:
    """Names of the outputs that a softmax makes, be it written out: x / ReduceSum(x) of x = Exp(...)."""
    return {t.name for t in graph.outputs if t.inputs and _is_softmax(t)}


def _is_softmax(tensor: gs.Tensor) -> bool:
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


def damage(dense: Outputs, found: Outputs, probabilities: set[str]) -> float:
    """Summed over outputs: mean KL divergence of probabilities, else squared distance as a share of the variance."""
    total = 0.0
    for name in dense[0]:
        pairs = [(a[name], b[name]) for a, b in zip(dense, found, strict=True)]
        total += _divergence(pairs) if name in probabilities else _moved(pairs)
    return total


def _divergence(pairs: Sequence[tuple[Array, Array]]) -> float:
    rows = sum(a.size // a.shape[-1] for a, _ in pairs)
    whole: float = sum(
        float(a @ np.log(np.maximum(a, TINY) / np.maximum(b, TINY))) for a, b in _blocks(pairs)
    )
    return float(max(0.0, whole / max(rows, 1)))


def _moved(pairs: Sequence[tuple[Array, Array]]) -> float:
    shift = float(pairs[0][0].mean(dtype=np.float64))  # near the mean, so that the variance does not cancel
    count = sum(a.size for a, _ in pairs)
    first = second = moved = 0.0
    for a, b in _blocks(pairs):
        moved += float((a - b) @ (a - b))
        a -= shift
        first, second = first + float(a.sum()), second + float(a @ a)
    return moved / max(second - first * first / max(count, 1), TINY)


def _blocks(pairs: Sequence[tuple[Array, Array]]) -> Iterator[tuple[Array, Array]]:
    """Flat float64 pieces of both that stay in the cache."""
    for a, b in pairs:
        a, b = a.reshape(-1), b.reshape(-1)
        for i in range(0, a.size, BLOCK):
            yield a[i : i + BLOCK].astype(np.float64), b[i : i + BLOCK].astype(np.float64)
