"""If nodes whose bodies read tensors and weights of the graph around them; loops that hand weights on."""

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


def repeat(b: Builder, x: Tensor, weight: Tensor) -> Tensor:
    """x <- act(x w), three times; the weight is read from around the loop, or is one of its states."""
    carried = b.chance(0.7)
    names = {key: b.name(key) for key in ("i", "go", "going", "s", "h", "t", "w", "last")}
    inner = names["w"] if carried else weight.name
    nodes = [
        helper.make_node("MatMul", [names["s"], inner], [names["h"]]),
        helper.make_node(b.pick(["Relu", "Tanh"]), [names["h"]], [names["t"]]),
        helper.make_node("Identity", [names["go"]], [names["going"]]),
    ]
    counters = [(names["i"], TensorProto.INT64), (names["go"], TensorProto.BOOL)]
    inputs = [helper.make_tensor_value_info(name, kind, []) for name, kind in counters]
    inputs.append(helper.make_tensor_value_info(names["s"], TensorProto.FLOAT, None))
    outputs = [helper.make_tensor_value_info(names["going"], TensorProto.BOOL, [])]
    outputs.append(helper.make_tensor_value_info(names["t"], TensorProto.FLOAT, None))
    out = Tensor(b.name("loop"), x.shape)
    states, results = [x.name], [out.name]
    if carried:
        again = b.name("again")
        nodes.append(helper.make_node("Identity", [inner], [again]))
        inputs.append(helper.make_tensor_value_info(inner, TensorProto.FLOAT, weight.shape))
        outputs.append(helper.make_tensor_value_info(again, TensorProto.FLOAT, weight.shape))
        states.append(weight.name)
        results.append(names["last"])
    body = helper.make_graph(nodes, b.name("g"), inputs, outputs)
    steps = b.initializer(np.array(3, np.int64))
    b.nodes.append(helper.make_node("Loop", [steps.name, "", *states], results, b.name("/Loop"), body=body))
    return out
