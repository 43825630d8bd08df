"""Nodes that compute the same from the same: one stays, and all read it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import onnx_graphsurgeon as gs

from pruneopt.model import RANDOM, values
from pruneopt.passes.rewriting.edits import ends_of, read_instead

DRAWS = RANDOM | {"Dropout"}  # what is drawn twice differs


def merge_duplicates(graph: gs.Graph) -> None:
    """Every reader of a node that repeats an earlier one reads the earlier one; what makes an output stays."""
    ends = ends_of(graph)
    first: dict[Hashable, gs.Node] = {}
    for node in graph.nodes:
        key = _key(node)
        if key is None:
            continue
        same = first.setdefault(key, node)
        if same is not node and not any(id(t) in ends for t in node.outputs):
            for old, new in zip(node.outputs, same.outputs, strict=True):
                read_instead(old, new)


def _key(node: gs.Node) -> Hashable:
    """What two nodes that compute the same have in common; None where that cannot be known.

    Ops of other domains may do anything, and nodes with bodies read more than their inputs.
    """
    if node.domain not in (None, "", "ai.onnx") or node.op in DRAWS:
        return None
    attributes = [(name, _attribute(value)) for name, value in sorted(node.attrs.items())]
    if any(value is None for _, value in attributes):
        return None
    outputs = tuple(bool(t.name) for t in node.outputs)
    return node.op, tuple(attributes), tuple(map(_input, node.inputs)), outputs


def _attribute(value: object) -> Hashable:
    if isinstance(value, gs.Constant):
        return _value(value)
    if isinstance(value, int | float | str | bytes) or (
        isinstance(value, Sequence) and all(isinstance(v, int | float | str | bytes) for v in value)
    ):
        return repr(value)
    return None


def _input(tensor: gs.Tensor) -> Hashable:
    """A variable is itself. So is a weight, for equal ones may be learnt apart; sizes and scalars are their values."""
    if isinstance(tensor, gs.Constant) and (tensor.dtype.kind in "iub" or _count(tensor) == 1):
        return _value(tensor)
    return id(tensor) if tensor.name else ""


def _value(constant: gs.Constant) -> Hashable:
    array = values(constant)
    return str(array.dtype), array.shape, array.tobytes()


def _count(constant: gs.Constant) -> int:
    count = 1
    for size in constant.shape:
        count *= size
    return count
