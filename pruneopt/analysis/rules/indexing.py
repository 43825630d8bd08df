"""Ops that look entries up by position: what is indexed by data stays as it is."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.analysis.axes import Axis
from pruneopt.analysis.op import Op
from pruneopt.analysis.positions import choose, look_up
from pruneopt.analysis.rules import rule


@rule("Gather")
def gather(op: Op) -> None:
    """`data[:axis] + indices + data[axis+1:]`; a run of constant indices is a slice, other lists may get shorter."""
    data, index, out = op.axes(0), op.axes(1), op.result()
    axis = op.attr("axis", 0) % len(data)
    op.equal_all(data[:axis] + data[axis + 1 :], out[:axis] + out[axis + len(index) :])
    op.weights.add(0)
    known = op.constants[1]
    if known is None or not data[axis].static:
        op.equal_all(index, out[axis : axis + len(index)])
        look_up(op, 1, data[axis], "rows are looked up by data")
    elif index and _is_run(np.asarray(known), data[axis].size[0]):
        _take(op, data[axis], out[axis], int(np.asarray(known).reshape(-1)[0]) % data[axis].size[0])
    else:
        op.equal_all(index, out[axis : axis + len(index)])
        listed = isinstance(op.node.inputs[1], gs.Constant) and len(index) == 1
        op.freeze([data[axis], *([] if listed else index)], "single entries are picked by position")


def _is_run(indices: np.ndarray, size: int) -> bool:
    flat = indices.reshape(-1) % size
    return indices.ndim == 1 and bool((flat == np.arange(flat[0], flat[0] + flat.size)).all())


def _take(op: Op, axis: Axis, out: Axis, start: int) -> None:
    before, after = op.fresh(start), op.fresh(axis.size[0] - start - out.size[0])
    op.equal(axis, op.concat([before, out, after]))
    op.positions(1, axis)


@rule("GatherElements")
def gather_elements(op: Op) -> None:
    """Output and indices are alike; along `axis` positions are data."""
    data, index, out = op.axes(0), op.axes(1), op.result()
    op.equal_all(index, out)
    axis = op.attr("axis", 0) % len(data)
    for dim, (x, y) in enumerate(zip(data, out, strict=True)):
        if dim == axis:
            look_up(op, 1, x, "looked up by position")
        elif x.size != y.size:
            op.freeze([x], "looked up by position")
        else:
            op.equal(x, y)
    op.freeze([out[axis]], "looked up by position")


@rule("GatherND")
def gather_nd(op: Op) -> None:
    """`batch + indices[:-1] + data[batch + depth:]`."""
    data, index, out = op.axes(0), op.axes(1), op.result()
    batch = op.attr("batch_dims", 0)
    depth = index[-1].size[0]
    tail = len(data) - batch - depth
    op.weights.add(0)
    op.equal_all(data[:batch], index[:batch])
    op.equal_all(index[:-1], out[: len(index) - 1])
    op.equal_all(data[len(data) - tail :], out[len(out) - tail :])
    if depth == 1:
        look_up(op, 1, data[batch], "looked up by position")
    op.freeze(data[batch : batch + depth] if depth > 1 else [], "looked up by position")
    op.freeze([index[-1]], "a list of positions")


@rule("ScatterND")
def scatter_nd(op: Op) -> None:
    """Output like data; the trailing dimensions of the updates are data's."""
    data, index, updates = op.axes(0), op.axes(1), op.axes(2)
    op.equal_all(data, op.result())
    depth = index[-1].size[0]
    op.freeze(data[:depth], "written by position")
    op.freeze(index, "a list of positions")
    op.freeze(updates[: len(index) - 1], "written by position")
    op.equal_all(data[depth:], updates[len(index) - 1 :])


@rule("ScatterElements", "Scatter")
def scatter_elements(op: Op) -> None:
    """Output like data, indices like updates; along `axis` positions are data."""
    data, index, updates = op.axes(0), op.axes(1), op.axes(2)
    op.equal_all(data, op.result())
    op.equal_all(index, updates)
    axis = op.attr("axis", 0) % len(data)
    for dim, (x, y) in enumerate(zip(data, updates, strict=True)):
        if dim == axis:
            look_up(op, 1, x, "written by position")
            op.freeze([y], "written by position")
        elif x.size != y.size:
            op.freeze([x, y], "written by position")
        else:
            op.equal(x, y)


@rule("TopK", "ArgMax", "ArgMin")
def chosen(op: Op) -> None:
    """The best entries along `axis`: their values, and where they were."""
    data = op.axes(0)
    top = op.node.op == "TopK"
    axis = op.attr("axis", -1 if top else 0) % len(data)
    count = (op.value("k", 1) if top else [1]) or [data[axis].size[0]]
    for out in (o for o in op.outputs if o is not None):
        keeps = len(out) == len(data)
        op.equal_all(data[:axis] + data[axis + 1 :], out[:axis] + out[axis + keeps :])
        op.freeze(out[axis : axis + keeps], "one entry for each that was chosen")
    choose(op, 0, axis, count[0], len(op.outputs) - 1, "the best of it are chosen")


@rule("OneHot")
def one_hot(op: Op) -> None:
    """`indices[:axis] + depth + indices[axis:]`."""
    index, out = op.axes(0), op.result()
    axis = op.attr("axis", -1) % len(out)
    op.equal_all(index, out[:axis] + out[axis + 1 :])
    op.parameter(2)
    look_up(op, 0, out[axis], "positions along it are values")
    op.sizes(1, [out[axis]], scalar=not op.input(1))


@rule("CumSum", "Hardmax")
def ordered(op: Op) -> None:
    """Positions along `axis` have a meaning; the other dimensions pass through."""
    data = op.axes(0)
    axis = op.attr("axis", -1) if op.node.op == "Hardmax" else (op.value("axis", 1) or [0])[0]
    axis %= len(data)
    op.equal_all(data, op.result())
    op.freeze([data[axis]], "the order along it has a meaning")
