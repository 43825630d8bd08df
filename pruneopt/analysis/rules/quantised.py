"""Integer and quantised arithmetic: a removed entry is an entry equal to the zero point.

Scales and zero points are scalars, or vectors along rows, columns or output channels.
"""

from __future__ import annotations

from pruneopt.analysis.axes import Axis
from pruneopt.analysis.op import Op
from pruneopt.analysis.rules import rule
from pruneopt.analysis.rules.movement import join

MS = "com.microsoft"


@rule("MatMulInteger", since=10)
def matmul_integer(op: Op) -> None:
    """`... m k, ... k n, m, n -> ... m n`."""
    _product(op, a=0, b=(1, 3), rows=[2], columns=[3])


@rule("QLinearMatMul", since=10)
def qlinear_matmul(op: Op) -> None:
    """`... m k, m, m, ... k n, n, n, n, n -> ... m n`."""
    _product(op, a=0, b=(3, 5), rows=[1, 2], columns=[4, 5, 6, 7])


@rule("MatMulIntegerToFloat", domain=MS)
def matmul_integer_to_float(op: Op) -> None:
    """`... m k, ... k n, scales, zero points, n -> ... m n`."""
    _product(op, a=0, b=(1, 5), rows=[2, 4], columns=[3, 5, 6])


@rule("DynamicQuantizeMatMul", domain=MS)
def dynamic_quantise_matmul(op: Op) -> None:
    """`... m k, ... k n, n, n, n -> ... m n`; the scale of the data is taken while running."""
    _product(op, a=0, b=(1, 3), rows=[], columns=[2, 3, 4])
    for dim in range(len(op.axes(0))):
        op.statistic(0, dim, "the quantisation scale is taken over the whole tensor")


@rule("QGemm", domain=MS)
def qgemm(op: Op) -> None:
    """`m k, , , k n, n, n, n, , -> m n`, each operand transposed where the attribute says so."""
    a, b = (
        op.axes(0)[:: -1 if op.attr("transA", 0) else 1],
        op.axes(3)[:: -1 if op.attr("transB", 0) else 1],
    )
    out = op.result()
    op.equal_all([a[0], b[1], a[1]], [out[0], out[1], b[0]])
    op.contract(0, 0 if op.attr("transA", 0) else 1, zero=2)
    op.weights.add(3)
    op.count_macs(*out, a[1])
    for slot in (4, 5, 6):
        _vector(op, slot, out[1])


def _product(op: Op, a: int, b: tuple[int, int], rows: list[int], columns: list[int]) -> None:
    """The matrix product of inputs a and b[0]; b[1] is the zero point of the latter."""
    left, right, out = op.axes(a), op.axes(b[0]), op.result()
    if min(len(left), len(right)) < 2:
        op.freeze_all("multiplies vectors")
        return
    op.equal_all([left[-1], left[-2], right[-1]], [right[-2], out[-2], out[-1]])
    op.broadcast([left[:-2], right[:-2], out[:-2]])
    op.contract(b[0], -2, zero=b[1])  # its zero points are along its last dimension, or one
    op.weights.add(b[0])
    op.count_macs(*out, left[-1])
    for slot in rows:
        _vector(op, slot, left[-2])
    for slot in columns:
        _vector(op, slot, right[-1])


def _vector(op: Op, slot: int, target: Axis) -> None:
    term = op.input(slot)
    if term and term[-1].size == target.size:
        op.equal(term[-1], target)
    elif term:
        op.parameter(slot)


@rule("ConvInteger", since=10)
def conv_integer(op: Op) -> None:
    """As Conv; the zero point of the weights may be a vector of output channels."""
    names = op.relate(
        "b (g i) *, (g o) i *, , (g o) -> b (g o) *", macs=True, zeros={0: 2}, g=op.attr("group", 1)
    )
    op.sizes("group", [names["g"]], scalar=True)


@rule("QLinearConv", since=10)
def qlinear_conv(op: Op) -> None:
    """As Conv, with a scale and zero point per output channel."""
    text = "b (g i) *, , , (g o) i *, (g o), (g o), , , (g o) -> b (g o) *"
    names = op.relate(text, macs=True, zeros={0: 2}, g=op.attr("group", 1))
    op.sizes("group", [names["g"]], scalar=True)


@rule("QLinearAdd", "QLinearMul", domain=MS)
def qlinear_binary(op: Op) -> None:
    """`..., , , ..., , , , -> ...`."""
    op.broadcast([t for t in (op.input(0), op.input(3), op.outputs[0]) if t is not None])


@rule("QLinearWhere", domain=MS)
def qlinear_where(op: Op) -> None:
    """`..., ..., , , ..., , , , -> ...`."""
    op.broadcast([t for t in (op.input(0), op.input(1), op.input(4), op.outputs[0]) if t is not None])


@rule("QLinearSigmoid", "QLinearLeakyRelu", domain=MS)
def qlinear_unary(op: Op) -> None:
    """`... -> ...`, with scalar scales."""
    op.equal_all(op.axes(0), op.result())


@rule("QLinearSoftmax", domain=MS)
def qlinear_softmax(op: Op) -> None:
    """Entries compete along `axis`."""
    data = op.axes(0)
    op.equal_all(data, op.result())
    axis = op.attr("axis", -1) % len(data)
    for dim in range(axis, axis + 1 if op.attr("opset", 13) >= 13 else len(data)):
        op.statistic(0, dim, "softmax runs over it")


@rule("QLinearConcat", domain=MS)
def qlinear_concat(op: Op) -> None:
    """Two parameters, then data, scale and zero point of each part."""
    join(op, [t for t in op.inputs[2::3] if t is not None])


@rule("QLinearGlobalAveragePool", "QLinearAveragePool", domain=MS)
def qlinear_pool(op: Op) -> None:
    """`b c * -> b c *`, or channels last."""
    op.relate("b * c -> b * c" if op.attr("channels_last", 0) else "b c * -> b c *")
