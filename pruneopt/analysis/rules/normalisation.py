"""Norms and softmax: a statistic runs over an axis, so removal there changes what is left."""

from __future__ import annotations

from pruneopt.analysis.axes import Axis, couple
from pruneopt.analysis.op import Op
from pruneopt.analysis.rules import rule

NORM = "the norm's mean and variance run over it"


@rule("BatchNormalization")
def batch_norm(op: Op) -> None:
    """Element by element with stored statistics; in training mode over everything but the channel."""
    if op.attr("training_mode", 0):  # weight standardisation is exported like that
        op.relate("~b c ~..., c, c, c, c -> b c ..., c, c", why=NORM)
    else:
        op.relate("b c ..., c, c, c, c -> b c ..., c, c, c, c")


@rule("InstanceNormalization")
def instance_norm(op: Op) -> None:
    """Per channel, statistics over what follows."""
    op.relate("b c ~..., c, c -> b c ...", why=NORM)


@rule("RMSNormalization", "SimplifiedLayerNormalization")
def rms_norm(op: Op) -> None:
    """As a LayerNorm without mean: then removed entries are entries of zero.

    x / sqrt(S/d + e) * g = x / sqrt(S/k + e d/k) * g sqrt(d/k), S the sum of squares.
    """
    data = op.axes(0)
    if op.attr("axis", -1) % len(data) < len(data) - 1 or any(t.name for t in op.node.outputs[1:]):
        layer_norm(op)  # the divisor itself is read, too
        return
    op.equal_all(data, op.result())
    op.broadcast([op.axes(1), data])
    sum_of_squares(op, data[-1])


def sum_of_squares(op: Op, axis: Axis, scale: int = 1, default: float = 1e-5) -> None:
    """The last dimension is summed over; epsilon and scale keep the divisor of its full size."""
    op.contract(0, len(op.axes(0)) - 1)
    couple(axis, op.reason(NORM))
    op.scaled("epsilon", axis, -1.0, default=default)
    op.scaled(scale, axis, -0.5)


@rule("LayerNormalization")
def layer_norm(op: Op) -> None:
    """Statistics over the dimensions from `axis` on; scale and bias are aligned from the right."""
    data, out = op.axes(0), op.result()
    axis = op.attr("axis", -1) % len(data)
    op.equal_all(data, out)
    for term in (op.input(1), op.input(2)):
        if term is not None:
            op.broadcast([term, data])
    for extra in (o for o in op.outputs[1:] if o):
        op.equal_all(data[:axis], extra[:axis])
    for dim in range(axis, len(data)):
        op.statistic(0, dim, NORM)


@rule("GroupNormalization", since=18)
def group_norm(op: Op) -> None:
    """Channels are `(g c)`: whole groups are free, widths inside a group are under the norm."""
    scale = "(g c)" if op.opset >= 21 else "g"
    groups = op.attr("num_groups")
    names = op.relate(f"b (g c) ~..., {scale}, {scale} -> b (g c) ...", why=NORM, g=groups)
    op.statistic(0, 1, NORM, over=names["c"])
    op.sizes("num_groups", [names["g"]], scalar=True)


@rule("Softmax", "LogSoftmax")
def softmax(op: Op) -> None:
    """Entries compete along `axis` (before opset 13: along everything from there on)."""
    data = op.axes(0)
    op.equal_all(data, op.result())
    axis = op.attr("axis", -1 if op.opset >= 13 else 1) % len(data)
    for dim in range(axis, axis + 1 if op.opset >= 13 else len(data)):
        op.statistic(0, dim, "softmax runs over it")


@rule("LpNormalization", "MeanVarianceNormalization")
def lp_norm(op: Op) -> None:
    """Statistics over `axis` or `axes`."""
    data = op.axes(0)
    op.equal_all(data, op.result())
    axes = [op.attr("axis", -1)] if op.node.op == "LpNormalization" else op.attr("axes", [0, 2, 3])
    for axis in axes:
        op.statistic(0, axis % len(data), NORM)


@rule("LRN")
def lrn(op: Op) -> None:
    """A window over neighbouring channels."""
    data = op.axes(0)
    op.equal_all(data, op.result())
    op.freeze([data[1]], "a window runs over neighbouring channels")
