"""One small node per op (and per form that its rule tells apart)."""

from __future__ import annotations

from typing import Any

import numpy as np

from pruneopt.analysis.rules.elementwise import BROADCAST, UNARY
from pruneopt.analysis.rules.reduction import REDUCTIONS
from tests.analysis.rules.one_node import Case, Operand, c, i, ids, positive, q, w, x

MS = "com.microsoft"


def case(op: str, *inputs: Operand | None, **options: Any) -> Case:
    """A case; `outputs`, `opset`, `domain`, `exact` and `note` are its fields, the rest are attributes."""
    own = {k: options.pop(k) for k in ("opset", "domain", "exact", "note") if k in options}
    wanted = options.pop("outputs", 1)
    outs = (True,) * wanted if isinstance(wanted, int) else tuple(wanted)
    return Case(op, inputs, options, outs, **own)


def unary(op: str) -> Case:
    if op in ("Not", "BitwiseNot"):
        kind = np.bool_ if op == "Not" else np.int32
        return case(op, ids(2, 4, 6, dtype=kind))
    known: dict[str, dict[str, Any]] = {"Cast": {"to": 7}, "Elu": {"alpha": 0.5}}
    data = x(4, 6) if op not in ("Acosh",) else Operand(positive(4, 6).value + 1, constant=False)
    return case(op, data, opset={"Swish": 24}.get(op, 21), **known.get(op, {}))


def binary(op: str) -> Case:
    kind = np.bool_ if op in ("And", "Or", "Xor") else np.uint8 if op.startswith("Bit") else None
    if op == "Where":
        return case(op, ids(2, 4, 6, dtype=np.bool_), x(2, 4, 6), w(6))
    if kind is not None:
        return case(
            op,
            ids(2, 2, 4, 6, dtype=kind),
            ids(2, 4, 1, dtype=kind),
            **({"direction": "LEFT"} if op == "BitShift" else {}),
        )
    if op == "Mod":
        return case(op, x(2, 4, 6), positive(4, 1), fmod=1)
    return case(op, x(2, 4, 6), w(4, 1))


def reduction(name: str) -> Case:
    return case(f"Reduce{name}", x(2, 6, 5), i(1), opset=18, keepdims=0)


ELEMENTWISE = [
    *(unary(op) for op in UNARY),
    case("Clip", x(4, 6), c(-0.5), c(0.5), note="bounds"),
    case("Dropout", x(4, 6), outputs=2, note="mask"),
    case("CastLike", x(4, 6), c(1, np.int64)),
    case("Bernoulli", x(4, 6), exact=False),
    case("RandomNormalLike", x(4, 6), exact=False),
    case("RandomUniformLike", x(4, 6), exact=False),
    *(binary(op) for op in BROADCAST),
    case("Add", x(1, 6), x(4, 1), note="both broadcast"),
    case("PRelu", x(2, 6, 4), w(6, 1), note="per channel"),
    case("Sum", x(4, 6), w(6), x(4, 6), note="three"),
    case("QuantizeLinear", x(2, 6, 4), c(0.1), c(3, np.uint8)),
    case(
        "QuantizeLinear", x(2, 6, 4), positive(6), c([1, 2, 3, 4, 5, 6], np.uint8), axis=1, note="per channel"
    ),
    case("DequantizeLinear", q(6, 4, constant=True), positive(6), c([9, 2, 3, 4, 5, 6], np.uint8), axis=0),
    case("DequantizeLinear", q(8, 6, constant=True), positive(2, 6), axis=0, block_size=4, note="blocks"),
    case("DynamicQuantizeLinear", x(4, 6), outputs=3),
]
MOVEMENT = [
    case("Transpose", x(2, 6, 5), perm=[0, 2, 1]),
    case("Reshape", x(2, 12, 5), i(2, 3, 4, 5)),
    case("Reshape", x(2, 3, 4, 5), i(0, -1, 5), note="merge"),
    case("Reshape", x(2, 8, 8, 6), i(2, 2, 4, 2, 4, 6), note="windows"),
    case("Reshape", x(6, 4), i(8, 3), note="no common factor"),
    case("Flatten", x(2, 3, 4), axis=1),
    case("Squeeze", x(2, 1, 6), i(1)),
    case("Unsqueeze", x(2, 6), i(1)),
    case("Concat", x(2, 6), x(2, 4), axis=1),
    case("Concat", w(2, 6), x(3, 6), axis=0, note="constant first"),
    case("Split", x(2, 10), i(6, 4), axis=1, outputs=2),
    case("Split", x(2, 12), axis=1, num_outputs=3, outputs=3),
    case("Split", x(2, 12), i(4, 8), axis=1, outputs=[True, False], note="one output unused"),
    case("Split", x(2, 10), opset=11, axis=1, split=[6, 4], outputs=2),
    case("Slice", x(2, 10), i(2), i(8), i(1)),
    case("Slice", x(2, 10), i(0), i(10), i(1), i(2), note="every second"),
    case("Slice", x(2, 10), i(1), i(10), i(1), i(2), note="every second from 1"),
    case("Slice", x(2, 10), i(-1), i(-11), i(1), i(-1), note="reversed"),
    case("Slice", x(2, 10), i(-4), i(9223372036854775807), i(1), note="to the end"),
    case("Slice", x(2, 10), opset=9, axes=[1], starts=[2], ends=[8]),
    case("Pad", x(2, 6), i(0, 2, 0, 3)),
    case("Pad", x(2, 6, 5), i(1, 1), None, i(2), mode="reflect"),
    case("Pad", x(2, 6), opset=10, pads=[0, 2, 0, 3]),
    case("Expand", x(2, 1, 6), i(2, 4, 6)),
    case("Expand", w(6, 1), i(2, 1, 4), note="shape with ones"),
    case("Tile", x(2, 6), i(1, 3)),
    case("ConstantOfShape", i(2, 6)),
    case("Resize", x(1, 4, 3, 3), None, c([1, 1, 2, 2]), mode="nearest", note="scales"),
    case("Resize", x(1, 4, 3, 3), None, None, i(1, 4, 6, 6), mode="nearest"),
    case("Upsample", x(1, 4, 3, 3), c([1, 1, 2, 2]), opset=9, mode="nearest"),
    case("DepthToSpace", x(1, 24, 2, 2), blocksize=2),
    case("DepthToSpace", x(1, 24, 2, 2), blocksize=2, mode="CRD"),
    case("SpaceToDepth", x(1, 3, 4, 4), blocksize=2),
    case("Shape", x(4, 6), exact=False),
    case("Size", x(4, 6)),
    case("Range", c(0, np.int64), c(6, np.int64), c(1, np.int64)),
    case("EyeLike", x(4, 6)),
    case("NonZero", ids(2, 4, 6)),
    case("OneHot", ids(5, 3), c(5, np.int64), c([0, 1])),
    case("RandomNormal", shape=[4, 6], exact=False),
    case("RandomUniform", shape=[4, 6], exact=False),
    case("Multinomial", x(2, 6), sample_size=3, exact=False),
    case("Unique", ids(5, 6)),
    case("Compress", x(4, 6), c([True, False, True], np.bool_), axis=0),
    case("Trilu", x(2, 4, 4)),
    case("ReverseSequence", x(4, 3, 6), c([1, 2, 3], np.int64), time_axis=0, batch_axis=1),
]
INDEXING = [
    case("Gather", w(9, 6), ids(9, 2, 3)),
    case("Gather", x(2, 9), c([3, 4, 5], np.int64), axis=1, note="run"),
    case("Gather", x(3, 2, 6), c(1, np.int64), axis=0, note="one entry"),
    case("Gather", x(2, 6), c([0, 3, 1], np.int64), axis=1, note="picked"),
    case("GatherElements", x(4, 6), ids(4, 3, 6), axis=0),
    case("GatherND", x(4, 5, 6), ids(4, 3, 1)),
    case("GatherND", x(2, 5, 6), ids(5, 2, 3, 1), batch_dims=1, note="batched"),
    case("ScatterND", x(4, 6), ids(4, 3, 1), x(3, 6), exact=False),
    case("ScatterND", w(4, 6), c([[0], [2], [3]], np.int64), x(3, 6), note="distinct"),
    case("ScatterElements", x(4, 6), c([[0] * 6, [2] * 6], np.int64), x(2, 6), axis=0),
    case("Scatter", x(4, 6), c([[0] * 6, [2] * 6], np.int64), x(2, 6), axis=0, opset=9),
    case("TopK", x(4, 6), i(2), outputs=2),
    case("ArgMax", x(4, 6), axis=1),
    case("ArgMin", x(4, 6, 3), axis=1, keepdims=0),
    case("CumSum", x(4, 6), c(1, np.int64)),
    case("Hardmax", x(4, 6)),
]
CONTRACTION = [
    case("MatMul", x(2, 4, 6), w(6, 8)),
    case("MatMul", x(2, 3, 4, 6), x(2, 3, 6, 5), note="two activations"),
    case("MatMul", x(2, 3, 4, 6), x(1, 6, 5), note="batch is broadcast"),
    case("MatMul", x(6), w(6, 8), note="vector first"),
    case("MatMul", x(4, 6), w(6), note="vector last"),
    case("MatMul", x(6), w(6), note="two vectors"),
    case("Gemm", x(4, 6), w(6, 8), w(8)),
    case("Gemm", x(4, 6), w(8, 6), w(1, 8), transB=1),
    case("Gemm", x(6, 4), w(8, 6), transA=1, transB=1),
    case("Gemm", x(4, 6), w(6, 8), c(0.5), note="scalar bias"),
    case("Gemm", x(4, 6), w(6, 8), w(4, 1), note="column bias"),
    case("Conv", x(1, 6, 5, 5), w(8, 6, 3, 3), w(8), pads=[1, 1, 1, 1]),
    case("Conv", x(1, 8, 5, 5), w(12, 4, 1, 1), group=2),
    case("Conv", x(1, 6, 5, 5), w(6, 1, 3, 3), w(6), group=6, note="depthwise"),
    case("Conv", x(1, 6, 5), w(12, 1, 3), group=6, note="depthwise, two each"),
    case("Conv", x(1, 6, 4, 4, 4), w(4, 6, 2, 2, 2), note="3-D"),
    case("ConvTranspose", x(1, 6, 3, 3), w(6, 8, 2, 2), w(8), strides=[2, 2]),
    case("ConvTranspose", x(1, 8, 3, 3), w(8, 3, 2, 2), w(6), group=2),
    case("ConvInteger", q(1, 6, 5, 5), q(4, 6, 3, 3, constant=True), c(7, np.uint8)),
    case("MatMulInteger", q(4, 6), q(6, 8, constant=True), c(7, np.uint8), c(5, np.uint8)),
    case(
        "MatMulInteger",
        q(4, 6),
        q(6, 8, constant=True),
        c(7, np.uint8),
        c(range(8), np.uint8),
        note="per column",
    ),
    case(
        "QLinearMatMul",
        q(4, 6),
        c(0.1),
        c(7, np.uint8),
        q(6, 8, constant=True),
        c(0.1),
        c(5, np.uint8),
        c(2.0),
        c(3, np.uint8),
    ),
    case(
        "QLinearConv",
        q(1, 6, 4, 4),
        c(0.1),
        c(7, np.uint8),
        q(8, 6, 1, 1, constant=True),
        positive(8),
        c([5] * 8, np.uint8),
        c(9.0),
        c(3, np.uint8),
        c(range(8), np.int32),
    ),
    case("Einsum", x(2, 4, 3, 6), x(2, 5, 3, 6), equation="bqhd,bkhd->bhqk"),
    case("Einsum", x(2, 3, 6), w(6, 4), equation="...i,ij->...j", note="ellipsis"),
    case("Einsum", x(3, 6), w(6, 4), equation="ab,bc", note="implicit"),
    case("Einsum", x(2, 4, 4), equation="bii->bi", note="diagonal"),
    case("Einsum", x(2, 4, 6), equation="bij->bj", note="sum"),
]
NORMS = [
    case("BatchNormalization", x(2, 6, 4), w(6), w(6), w(6), positive(6)),
    case("BatchNormalization", x(2, 6, 4), w(6), w(6), w(6), positive(6), training_mode=1, outputs=3),
    case("InstanceNormalization", x(2, 6, 4), w(6), w(6)),
    case("LayerNormalization", x(2, 4, 6), w(6), w(6)),
    case("LayerNormalization", x(2, 4, 6), w(4, 6), None, axis=1, outputs=3),
    case("RMSNormalization", x(2, 4, 6), w(6), opset=23),
    case("SimplifiedLayerNormalization", x(2, 4, 6), w(6), outputs=2),
    case("GroupNormalization", x(2, 8, 3), w(8), w(8), num_groups=4),
    case("GroupNormalization", x(2, 8, 3), w(4), w(4), num_groups=4, opset=18),
    case("Softmax", x(2, 4, 6)),
    case("Softmax", x(2, 4, 6), opset=11, axis=1),
    case("LogSoftmax", x(2, 4, 6), axis=1),
    case("LpNormalization", x(2, 4, 6)),
    case("MeanVarianceNormalization", x(2, 4, 3, 3)),
    case("LRN", x(2, 6, 3, 3), size=3),
]
REDUCTION = [
    *(reduction(name) for name in REDUCTIONS),
    case("ReduceMean", x(2, 6, 5), opset=13, axes=[-1]),
    case("ReduceSum", x(2, 6, 5), note="all"),
    case("ReduceSum", x(2, 6, 5), noop_with_empty_axes=1, note="none"),
    case("AveragePool", x(1, 6, 4, 4), kernel_shape=[2, 2]),
    case("LpPool", x(1, 6, 4, 4), kernel_shape=[2, 2]),
    case("MaxPool", x(1, 6, 4, 4), kernel_shape=[2, 2]),
    case("MaxPool", x(1, 6, 4, 4), kernel_shape=[2, 2], outputs=2, note="with positions"),
    case("GlobalAveragePool", x(1, 6, 4, 4)),
    case("GlobalLpPool", x(1, 6, 4, 4)),
    case("GlobalMaxPool", x(1, 6, 4, 4)),
]
RECURRENT = [
    case("LSTM", x(3, 2, 4), w(1, 24, 4), w(1, 24, 6), w(1, 48), hidden_size=6, outputs=3),
    case(
        "LSTM",
        x(3, 2, 4),
        w(2, 24, 4),
        w(2, 24, 6),
        w(2, 48),
        None,
        w(2, 2, 6),
        w(2, 2, 6),
        w(2, 18),
        hidden_size=6,
        direction="bidirectional",
        outputs=3,
    ),
    case("GRU", x(3, 2, 4), w(1, 18, 4), w(1, 18, 6), w(1, 36), hidden_size=6, outputs=2),
    case(
        "GRU", x(2, 3, 4), w(1, 18, 4), w(1, 18, 6), layout=1, hidden_size=6, linear_before_reset=1, outputs=2
    ),
    case("RNN", x(3, 2, 4), w(1, 6, 4), w(1, 6, 6), w(1, 12), hidden_size=6, outputs=2),
]
CASES = [*ELEMENTWISE, *MOVEMENT, *INDEXING, *CONTRACTION, *NORMS, *REDUCTION, *RECURRENT]
