"""If nodes whose bodies read tensors and weights of the graph around them: these must stay as they are."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.fuzz.builder import Builder, Tensor


def choose(b: Builder, x: Tensor) -> Tensor:
    """One body or the other, by a condition that is constant or depends on the data."""
    scale = b.initializer(
        (1 + 0.3 * b.rng.standard_normal([x.width(1), *[1] * (len(x.shape) - 2)])).astype(np.float32)
    )
    out = Tensor(b.name("if"), x.shape)
    bodies = {"then_branch": _body(b, x, "Mul", scale), "else_branch": _body(b, x, "Add", None)}
    b.nodes.append(helper.make_node("If", [_condition(b, x).name], [out.name], b.name("/If"), **bodies))
    return out


def _condition(b: Builder, x: Tensor) -> Tensor:
    if b.chance(0.5):
        return b.initializer(np.array(b.chance(0.5)), "flag")
    total = b.reduce("Mean", x, list(range(len(x.shape))), keep=False)
    return b.op("Greater", total, b.initializer(np.array(0.0, np.float32)), shape=[])


def _body(b: Builder, x: Tensor, op: str, other: Tensor | None) -> onnx.GraphProto:
    out = b.name("body")
    shape = [s.replace("*", "x") if isinstance(s, str) else s for s in x.shape]
    made = helper.make_tensor_value_info(out, TensorProto.FLOAT, shape)
    if other is not None:
        return helper.make_graph([helper.make_node(op, [x.name, other.name], [out])], b.name("g"), [], [made])
    own = numpy_helper.from_array(b.rng.standard_normal((1,)).astype(np.float32))
    inner = b.name("inner")
    nodes = [
        helper.make_node("Constant", [], [inner], value=own),
        helper.make_node(op, [x.name, inner], [out]),
    ]
    return helper.make_graph(nodes, b.name("g"), [], [made])
