"""Tensors whose values are positions along an axis: where they are made, passed on, and looked up."""

from __future__ import annotations

from pruneopt.analysis.axes import Axis
from pruneopt.analysis.op import Op

INT32, INT64 = 6, 7  # onnx.TensorProto's numbers
CARRIERS = {"Cast", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Tile"}
CARRIERS |= {"Transpose", "Unsqueeze"}  # their output's entries are entries of their first input


def choose(op: Op, slot: int, dim: int, count: int, out: int, text: str) -> None:
    """`count` entries of dimension `dim` are chosen by value; output `out` holds their positions."""
    axis = op.axes(slot)[dim]
    if not axis.static:
        op.freeze([axis], text)
        return
    op.statistic(slot, dim, text)
    op.chosen.append((axis, count))
    op.points[out] = axis


def look_up(op: Op, slot: int, axis: Axis, text: str) -> None:
    """Input `slot` holds positions along `axis`: data, unless it is known where they come from."""
    pointed = op.pointers.get(slot)
    if pointed is None or pointed.size != axis.size:
        op.freeze([axis], text)
        return
    op.followed.add(slot)
    op.equal(pointed, axis)


def follow(op: Op) -> None:
    """What is neither looked up nor passed on stays as it is: its positions are values to this node."""
    for slot, axis in op.pointers.items():
        if slot in op.followed:
            continue
        if slot == 0 and op.node.op in CARRIERS and op.attr("to", INT64) in (INT32, INT64):
            op.points |= dict.fromkeys(range(len(op.outputs)), axis)
        else:
            op.freeze([axis], "positions along it are values")
