"""Activations are known by what they compute, not by how they are written."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

pytest.importorskip("tvm", reason="sparse kernels are compiled by TVM")

from pruneopt.backends.tvm.functions import recognised
from pruneopt.model import Model

CONSTANTS = {"root": 2**0.5, "inverse": 0.5**0.5, "one": 1.0, "half": 0.5, "two": 2.0}


def graph(body: str) -> Model:
    """x goes through Neg, so that it is made by a node, into `body`, and y through Neg."""
    text = f'<ir_version: 8, opset_import: ["": 20]> g (float[n] a) => (float[n] b) {{ x = Neg(a) {body} b = Neg(y) }}'
    proto = onnx.parser.parse_model(text)
    stored = (onnx.numpy_helper.from_array(np.float32(v), k) for k, v in CONSTANTS.items())
    proto.graph.initializer.extend(stored)
    return Model.from_proto(proto)


@pytest.mark.parametrize(
    ("body", "nodes"),
    [
        ("d = Div(x, root) e = Erf(d) f = Add(e, one) g = Mul(x, f) y = Mul(g, half)", 5),
        ("d = Mul(inverse, x) e = Erf(d) f = Add(one, e) g = Mul(half, x) y = Mul(g, f)", 5),
        ("d = Div(x, root) e = Erf(d) f = Add(e, one) g = Mul(x, f) y = Div(g, two)", 5),
        ("y = Gelu(x)", 1),
    ],
)
def test_gelu_is_recognised_in_every_form(body: str, nodes: int) -> None:
    made = graph(body).graph
    found = recognised(made.nodes[0].outputs[0], made)
    assert found is not None
    assert (len(found[0]), found[1]) == (nodes, "Gelu")
    assert found[0][-1].outputs[0].name == "y"


def test_hard_swish_is_a_gate_and_a_product() -> None:
    made = graph("g = HardSigmoid <alpha = 0.16666667, beta = 0.5> (x) y = Mul(x, g)").graph
    found = recognised(made.nodes[0].outputs[0], made)
    assert found is not None
    assert (len(found[0]), found[1]) == (2, "HardSwish")


@pytest.mark.parametrize(
    "body",
    [
        "g = HardSigmoid <alpha = 0.2, beta = 0.5> (x) y = Mul(x, g)",
        "d = Div(x, two) e = Erf(d) f = Add(e, one) g = Mul(x, f) y = Mul(g, half)",
        "e = Erf(x) f = Abs(e) y = Mul(x, f)",
        'y = Gelu <approximate = "tanh"> (x)',
        "y = Mul(x, half)",
    ],
)
def test_what_is_neither_is_left_alone(body: str) -> None:
    made = graph(body).graph
    assert recognised(made.nodes[0].outputs[0], made) is None


def test_what_others_read_in_between_is_left_alone() -> None:
    text = (
        '<ir_version: 8, opset_import: ["": 20]> g (float[n] a) => (float[n] y, float[n] e) '
        "{ x = Neg(a) d = Div(x, root) e = Erf(d) f = Add(e, one) g = Mul(x, f) y = Mul(g, half) }"
    )
    proto = onnx.parser.parse_model(text)
    stored = (onnx.numpy_helper.from_array(np.float32(v), k) for k, v in CONSTANTS.items())
    proto.graph.initializer.extend(stored)
    made = Model.from_proto(proto).graph
    assert recognised(made.nodes[0].outputs[0], made) is None
