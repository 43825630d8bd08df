"""Ops that sum over an axis."""

from __future__ import annotations

import numpy as np

from tests.analysis.rules.one_node import c, case, positive, q, w, x

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
    case("Einsum", x(2, 4), w(3, 4, 5), x(2, 5), equation="bi,oij,bj->bo", note="two sums"),
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
