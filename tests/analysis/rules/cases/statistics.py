"""Norms, reductions and pooling."""

from __future__ import annotations

from pruneopt.analysis.rules.reduction import REDUCTIONS
from tests.analysis.rules.one_node import Case, case, i, positive, w, x


def reduction(name: str) -> Case:
    return case(f"Reduce{name}", x(2, 6, 5), i(1), opset=18, keepdims=0)


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
