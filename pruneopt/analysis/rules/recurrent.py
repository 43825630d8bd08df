"""LSTM, GRU and RNN: gates are fixed factors of the weights' rows, the hidden size is one atom."""

from __future__ import annotations

from pruneopt.analysis.op import Op
from pruneopt.analysis.rules import rule

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


@rule("RNN", "GRU", "LSTM")
def recurrent(op: Op) -> None:
    """`s b i, d (gates h) i, d (gates h) h, d (2 gates h), b, d b h -> s d b h, d b h`, or batch first."""
    gates = GATES[op.node.op]
    batch_first = op.attr("layout", 0)
    x, y, state = ("b s i", "b s d h", "b d h") if batch_first else ("s b i", "s d b h", "d b h")
    weights = f"d ({gates} h) i, d ({gates} h) h, d ({2 * gates} h)"
    peepholes = ", d (3 h)" if op.node.op == "LSTM" else ""
    names = op.relate(f"{x}, {weights}, n, {state}, {state}{peepholes} -> {y}, {state}, {state}")
    op.contract(2, 2, "the state fed back")
    op.weights.add(2)
    op.freeze([names["d"]], "the directions of a recurrent layer")
    op.freeze([names["s"]], "the recurrence runs along it")
    op.sizes("hidden_size", [names["h"]], scalar=True)
    gate = op.fresh(gates)
    op.count_macs(names["s"], names["b"], names["d"], gate, names["h"], names["i"])
    op.count_macs(names["s"], names["b"], names["d"], gate, names["h"], names["h"])


@rule("DynamicQuantizeLSTM", domain="com.microsoft")
def quantised_lstm(op: Op) -> None:
    """As LSTM with the weights transposed; data and state are quantised while running."""
    scales = ", d (4 h)" if len(op.axes(8)) == 2 else ", d"
    text = f"s b i, d i (4 h), d h (4 h), d (8 h), n, d b h, d b h, d (3 h){scales * 4}"
    names = op.relate(f"{text} -> s d b h, d b h, d b h")
    op.freeze([names["d"], names["s"]], "the directions and steps of a recurrent layer")
    op.statistic(0, 2, "the quantisation scale is taken over it")
    op.statistic(2, 1, "the quantisation scale is taken over it")
    op.weights |= {1, 2}
    op.sizes("hidden_size", [names["h"]], scalar=True)
    gates = op.fresh(4)
    op.count_macs(names["s"], names["b"], names["d"], gates, names["h"], names["i"])
    op.count_macs(names["s"], names["b"], names["d"], gates, names["h"], names["h"])
