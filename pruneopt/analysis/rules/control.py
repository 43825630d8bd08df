"""If, Loop and Scan: what goes into a body and comes out of it has the same axes outside."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from pruneopt.analysis.op import Axes, Op
from pruneopt.analysis.rules import rule


@rule("If")
def if_(op: Op) -> None:
    """Each output is the same output of either branch."""
    for body in op.node.subgraphs():
        for out, inner in zip(op.outputs, body.outputs, strict=True):
            _same(op, out, op.axes_of(inner), inner)


@rule("Loop")
def loop(op: Op) -> None:
    """States keep their axes over the steps; scan outputs get an axis of steps in front."""
    body = op.attr("body")
    states = len(body.inputs) - 2
    for i in range(states):
        inner = op.axes_of(body.inputs[2 + i])
        for other in (op.input(2 + i), op.axes_of(body.outputs[1 + i]), op.outputs[i]):
            _same(op, inner, other, body.outputs[1 + i])
    for i, out in enumerate(op.outputs[states:]):
        inner = body.outputs[1 + states + i]
        op.freeze((out or [])[:1], "steps of a loop")
        _same(op, (out or [])[1:], op.axes_of(inner), inner)


@rule("Scan", since=9)
def scan(op: Op) -> None:
    """States as in Loop; scanned inputs and outputs have an axis of steps."""
    body, scanned = op.attr("body"), op.attr("num_scan_inputs")
    states = len(body.inputs) - scanned
    for i in range(states):
        inner = op.axes_of(body.inputs[i])
        for other in (op.input(i), op.axes_of(body.outputs[i]), op.outputs[i]):
            _same(op, inner, other, body.outputs[i])
    into, out_of = op.attr("scan_input_axes", [0] * scanned), op.attr("scan_output_axes")
    for i in range(scanned):
        tensor = body.inputs[states + i]
        _same(op, _without(op, op.input(states + i), into[i]), op.axes_of(tensor), tensor)
    for i, out in enumerate(op.outputs[states:]):
        tensor = body.outputs[states + i]
        axis = out_of[i] if out_of else 0
        _same(op, _without(op, out, axis), op.axes_of(tensor), tensor)


def _without(op: Op, axes: Axes | None, steps: int) -> Axes:
    if not axes:
        return []
    steps %= len(axes)
    op.freeze([axes[steps]], "steps of a scan")
    return axes[:steps] + axes[steps + 1 :]


def _same(op: Op, outer: Axes | None, inner: Axes | None, tensor: gs.Tensor) -> None:
    """Equal axes; what differs in size or is a constant of the body stays as it is."""
    outer, inner = outer or [], inner or []
    if len(outer) != len(inner) or isinstance(tensor, gs.Constant):
        op.freeze([*outer, *inner], "comes out of a body in another form")
        return
    for x, y in zip(outer, inner, strict=True):
        op.equal(x, y) if x.size == y.size else op.freeze(
            [x, y], "differs between the steps or branches of a body"
        )
