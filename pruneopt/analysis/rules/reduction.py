"""Reductions and pooling."""

from __future__ import annotations

from pruneopt.analysis.axes import couple
from pruneopt.analysis.op import Op
from pruneopt.analysis.rules import pattern, rule

REDUCTIONS = "L1 L2 LogSum LogSumExp Max Mean Min Prod Sum SumSquare".split()
SUMS = ("ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2")  # a removed entry is an entry of zero


@rule(*(f"Reduce{name}" for name in REDUCTIONS))
def reduce(op: Op) -> None:
    """The reduced dimensions go (or become 1); sums are contractions, the rest are statistics.

    A sum is coupled all the same: norms are written with sums, too.
    """
    data, out = op.input(0) or [], op.outputs[0] or []
    axes = op.value("axes", 1)
    if axes is None and op.present(1):
        op.freeze_all("reduced along computed axes")
        return
    if axes is None and op.attr("noop_with_empty_axes", 0):
        op.equal_all(data, out)
        return
    reduced = {a % len(data) for a in axes or range(len(data))}
    kept = [i for i in range(len(data)) if i not in reduced]
    op.equal_all([data[i] for i in kept], [out[i] for i in kept] if op.attr("keepdims", 1) else out)
    for dim in reduced:
        if op.node.op in SUMS:
            op.contract(0, dim)
            couple(data[dim], op.reason(f"{op.node.op} runs over it"))
        else:
            op.statistic(0, dim, f"{op.node.op} runs over it")


pattern("b c * -> b c *", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool")


@rule("MaxPool")
def max_pool(op: Op) -> None:
    """`b c * -> b c *`; the second output counts positions through all channels."""
    op.relate("b c * -> b c *, b c *")
    if len(op.outputs) > 1 and op.outputs[1] is not None:
        op.freeze(op.outputs[1], "positions are counted through all dimensions")
