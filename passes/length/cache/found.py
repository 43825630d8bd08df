"""Caches of a decoder: inputs that come back as outputs with the new tokens behind them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.analysis.axes import Kind, find, parts
from pruneopt.analysis.infer import Analysis
from pruneopt.analysis.tokens import same


@dataclass(frozen=True, eq=False)
class Cache:
    """One tensor of keys or values that is handed on from step to step.

    Attributes:
        past: the input.
        present: the output, `past | new` along `dim`.
        dim: the dimension of tokens.
        fresh: name of what is put behind the past.
    """

    past: gs.Variable
    present: gs.Variable
    dim: int
    fresh: str


def find_caches(analysis: Analysis) -> list[Cache]:
    """All caches, in the order of the outputs."""
    found = []
    for present in analysis.model.graph.outputs:
        for past in analysis.model.graph.inputs:
            dim = _grown(analysis, past.name, present.name)
            fresh = None if dim is None else _fresh(present)
            if dim is not None and fresh is not None and _comes_from(present, past):
                found.append(Cache(past, present, dim, fresh))
    return found


def _grown(analysis: Analysis, past: str, present: str) -> int | None:
    """The one dimension in which an output is an input with more behind it."""
    old, new = analysis.axes.get(past, []), analysis.axes.get(present, [])
    if len(old) != len(new) or len(old) < 3:
        return None
    other = [i for i, (a, b) in enumerate(zip(old, new, strict=True)) if a.size != b.size]
    if len(other) != 1 or find(new[other[0]]).kind is not Kind.CONCAT:
        return None
    return other[0] if same(parts(new[other[0]])[0], old[other[0]]) else None


def _fresh(present: gs.Variable) -> str | None:
    node = _real(present).inputs[0] if _real(present).inputs else None
    return (
        str(node.inputs[-1].name)
        if node is not None and node.op == "Concat" and len(node.inputs) == 2
        else None
    )


def _comes_from(present: gs.Variable, past: gs.Variable) -> bool:
    return _real(_real(present).inputs[0].inputs[0]) is past


def _real(tensor: gs.Tensor) -> gs.Tensor:
    """What a tensor is a copy of."""
    while tensor.inputs and (tensor.inputs[0].op == "Identity" or _is_copy(tensor.inputs[0])):
        tensor = tensor.inputs[0].inputs[0]
    return tensor


def _is_copy(node: gs.Node) -> bool:
    return node.op == "Concat" and len(node.inputs) == 1


def positions(analysis: Analysis, cache: Cache) -> set[str]:
    """Derived tensors that hold the place of each new token, counted from the first one in the cache."""
    seen = analysis.seen
    axes = seen.shapes[cache.past.name][cache.dim], seen.shapes[cache.present.name][cache.dim]
    wanted = [np.arange(old, new) for old, new in zip(*axes, strict=True)]
    return {
        name
        for name, values in seen.values.items()
        if all(
            v.size == w.size and np.array_equal(v.reshape(-1), w) for v, w in zip(values, wanted, strict=True)
        )
    }
