"""Ops that treat every element alike."""

from __future__ import annotations

from typing import Any

import numpy as np

from pruneopt.analysis.rules.elementwise import BROADCAST, UNARY
from tests.analysis.rules.one_node import Case, Operand, c, case, ids, positive, q, w, x


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
    case(
        "DequantizeLinear", q(6, constant=True), positive(1), c([3], np.uint8), note="a vector with one scale"
    ),
    case("DynamicQuantizeLinear", x(4, 6), outputs=3),
]
