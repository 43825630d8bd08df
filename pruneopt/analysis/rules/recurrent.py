"""LSTM, GRU and RNN: gates are fixed factors of the weights' rows, the hidden size is one atom."""

from __future__ import annotations

from pruneopt.analysis.op import Op
from pruneopt.analysis.rules import rule

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


@rule("RNN", "GRU", "LSTM")
def recurrent(op: Op) -> None:
    """`s b i, d (gates h) i, d (gates h) h, d (2 gates h), b, d b h -> s d b h, d b h`, or batch first."""
    gates, cells = GATES[op.node.op], op.node.op == "LSTM"
    if op.attr("layout", 0):
        text = f"b s i, d ({gates} h) i, d ({gates} h) h, d ({2 * gates} h), n, b d h, b d h, d (3 h) -> b s d h, b d h, b d h"
    else:
        text = f"s b i, d ({gates} h) i, d ({gates} h) h, d ({2 * gates} h), n, d b h, d b h, d (3 h) -> s d b h, d b h, d b h"
    names = op.relate(text if cells else text.replace(", d (3 h)", ""), why="")
    op.freeze([names["d"]], "the directions of a recurrent layer")
    op.sizes("hidden_size", [names["h"]], scalar=True)
    gate = op.fresh(gates)
    op.count_macs(names["s"], names["b"], names["d"], gate, names["h"], names["i"])
    op.count_macs(names["s"], names["b"], names["d"], gate, names["h"], names["h"])
