"""Fused ops of ONNX Runtime, and ops on images and signals."""

from __future__ import annotations

import numpy as np

from tests.analysis.rules.one_node import c, case, i, ids, positive, q, w, x

MS = "com.microsoft"


FUSED = [
    case("BiasGelu", x(2, 3, 6), w(6), domain=MS),
    case("FastGelu", x(2, 3, 6), w(6), domain=MS),
    case("Gelu", x(2, 6), domain=MS),
    case("QuickGelu", x(2, 6), domain=MS),
    case("Trilu", x(2, 4, 4), domain=MS),
    case("QuantizeLinear", x(2, 6), c(0.1), c(3, np.uint8), domain=MS),
    case("DequantizeLinear", q(2, 6), c(0.1), c(3, np.uint8), domain=MS),
    case(
        "SkipLayerNormalization",
        x(2, 3, 6),
        x(2, 3, 6),
        w(6),
        w(6),
        w(6),
        domain=MS,
        outputs=[True, False, False, True],
    ),
    case("SkipSimplifiedLayerNormalization", x(2, 3, 6), x(2, 3, 6), w(6), domain=MS),
    case(
        "EmbedLayerNormalization",
        ids(9, 2, 3, dtype=np.int32),
        ids(2, 2, 3, dtype=np.int32),
        w(9, 6),
        w(5, 6),
        w(2, 6),
        w(6),
        w(6),
        domain=MS,
        outputs=2,
    ),
    case("FusedConv", x(1, 8, 5, 5), w(12, 4, 3, 3), w(12), domain=MS, group=2, activation="Relu"),
    case("FusedConv", x(1, 6, 5, 5), w(8, 6, 3, 3), w(8), x(1, 8, 3, 3), domain=MS, activation="Relu"),
    case("FusedMatMul", x(2, 6, 4), w(6, 8), domain=MS, transA=1, alpha=0.5),
    case("FusedMatMul", x(2, 4, 6), w(8, 6), domain=MS, transB=1),
    case("FusedGemm", x(4, 6), w(8, 6), w(8), domain=MS, transB=1, activation="Relu"),
    case(
        "MatMulNBits",
        x(3, 64),
        q(8, 4, 8, constant=True),
        positive(32),
        domain=MS,
        K=64,
        N=8,
        bits=4,
        block_size=16,
    ),
    case("NhwcMaxPool", q(1, 5, 5, 6), domain=MS, kernel_shape=[2, 2]),
    case("TransposeMatMul", x(2, 6, 4), w(6, 8), domain=MS, transA=1, alpha=0.5),
    case(
        "MatMulNBits",
        x(3, 64),
        q(8, 4, 8, constant=True),
        positive(32),
        q(16, constant=True),
        domain=MS,
        K=64,
        N=8,
        bits=4,
        block_size=16,
        note="packed zero points",
    ),
]

SPATIAL = [
    case("GridSample", x(1, 6, 4, 4), x(1, 3, 3, 2)),
    case("MaxRoiPool", x(1, 6, 4, 4), c([[0, 0, 0, 3, 3]]), pooled_shape=[2, 2]),
    case("RoiAlign", x(1, 6, 4, 4), c([[0, 0, 3, 3]]), c([0], np.int64), output_height=2, output_width=2),
    case("DeformConv", x(1, 6, 4, 4), w(8, 6, 2, 2), x(1, 8, 3, 3), w(8)),
    case("Col2Im", x(1, 24, 9), i(4, 4), i(2, 2)),
    case("CenterCropPad", x(6, 5), i(4), axes=[1]),
    case("DFT", x(3, 8, 1), None, c(1, np.int64)),
    case("Det", x(3, 4, 4)),
    case("Inverse", x(3, 4, 4), domain=MS),
    case("TensorScatter", x(2, 6, 5, 4), x(2, 6, 1, 4), c([1, 2], np.int64), opset=24),
    case("AffineGrid", x(1, 2, 3), i(1, 1, 3, 3)),
    case("BlackmanWindow", c(6, np.int64)),
    case("HammingWindow", c(6, np.int64)),
    case("HannWindow", c(6, np.int64)),
    case("MaxUnpool", x(1, 1, 2, 2), c([[[[0, 3], [8, 10]]]], np.int64), kernel_shape=[2, 2], strides=[2, 2]),
    case("MelWeightMatrix", c(4, np.int64), c(16, np.int64), c(8000, np.int64), c(0.0), c(4000.0)),
    case("NonMaxSuppression", c([[[0, 0, 1, 1], [2, 2, 3, 3]]]), c([[[0.9, 0.8]]]), c([2], np.int64)),
    case("STFT", x(1, 32, 1), c(8, np.int64), None, c(16, np.int64)),
    case("NegativeLogLikelihoodLoss", x(3, 5), ids(5, 3)),
    case("SoftmaxCrossEntropyLoss", x(3, 5), ids(5, 3)),
]
