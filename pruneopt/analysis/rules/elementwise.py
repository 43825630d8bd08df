"""Ops that treat every element alike: equal axes, aligned from the right."""

from __future__ import annotations

from pruneopt.analysis.op import Op
from pruneopt.analysis.rules import rule

UNARY = (
    "Abs Acos Acosh Asin Asinh Atan Atanh Cast Ceil Celu Clip Cos Cosh Dropout Elu Erf Exp Floor Gelu "
    "HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Log Mish Neg Not Reciprocal Relu Round Selu Shrink "
    "Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu BitwiseNot"
).split()
BROADCAST = (
    "Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less LessOrEqual Max "
    "Mean Min Mod Mul Or PRelu Pow Sub Sum Where Xor"
).split()


@rule(*UNARY, "CastLike", "Bernoulli", "RandomNormalLike", "RandomUniformLike")
def unary(op: Op) -> None:
    """`... -> ...`; further inputs are scalars (Clip's bounds) or types (CastLike's)."""
    data = op.axes(0)
    for out in op.outputs:
        if out is not None:
            op.equal_all(data, out)


@rule(*BROADCAST)
def broadcast(op: Op) -> None:
    """`..., ... -> ...`."""
    op.broadcast([term for term in (*op.inputs, *op.outputs) if term is not None])


@rule("QuantizeLinear", "DequantizeLinear", since=10)
def quantise(op: Op) -> None:
    """Element by element; scale and zero point are scalars, vectors along `axis`, or blocks of it."""
    data, out = op.axes(0), op.result()
    op.equal_all(data, out)
    axis = op.attr("axis", 1)
    for slot in (1, 2):
        scale = op.axes(slot)
        along = data[axis] if -len(data) <= axis < len(data) else None  # of one scale the axis means nothing
        if len(scale) == 1 and along is not None and scale[0].size == along.size:
            op.equal(scale[0], along)
        elif len(scale) == len(data) and any(set(s.size) != {1} for s in scale):
            for x, y in zip(scale, data, strict=True):
                op.equal(x, y) if x.size == y.size else op.freeze([x, y], "blocks share a scale")


@rule("DynamicQuantizeLinear", since=11)
def dynamic_quantise(op: Op) -> None:
    """Its scale is a statistic of the whole tensor."""
    data = op.axes(0)
    op.equal_all(data, op.result())
    for dim in range(len(data)):
        op.statistic(0, dim, "the quantisation scale is taken over the whole tensor")
