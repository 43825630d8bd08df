"""Width is removed inside If, Loop and Scan bodies, too, and through them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import pruneopt as po
from pruneopt.backends.session import Session
from pruneopt.passes.exact.invariants import free_invariants
from tests import models


def _value(name: str, shape: list[int] | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _weights(*shapes: tuple[str, int, int]) -> list[onnx.TensorProto]:
    rng = np.random.default_rng(0)
    return [
        numpy_helper.from_array((rng.standard_normal((a, b)) / np.sqrt(a)).astype(np.float32), n)
        for n, a, b in shapes
    ]


def _model(
    nodes: list[onnx.NodeProto], weights: list[onnx.TensorProto], x: list[str | int], y: list[str | int]
) -> onnx.ModelProto:
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", x), ("y", y))]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def branches() -> onnx.ModelProto:
    """A hidden width in front of an If, one inside each branch, and one that leaves it."""
    bodies = []
    for name, act in (("a", "Relu"), ("b", "Tanh")):
        inner = [
            helper.make_node("MatMul", ["h", f"{name}1"], [f"{name}h"]),
            helper.make_node(act, [f"{name}h"], [f"{name}r"]),
            helper.make_node("MatMul", [f"{name}r", f"{name}2"], [f"{name}o"]),
        ]
        weights = _weights((f"{name}1", 32, 48), (f"{name}2", 48, 24))
        bodies.append(helper.make_graph(inner, name, [], [_value(f"{name}o")], weights))
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["h0"]),
        helper.make_node("Relu", ["h0"], ["h"]),
        helper.make_node("ReduceMean", ["x"], ["m"], keepdims=0),
        helper.make_node("Greater", ["m", "zero"], ["c"]),
        helper.make_node("If", ["c"], ["o"], then_branch=bodies[0], else_branch=bodies[1]),
        helper.make_node("MatMul", ["o", "w1"], ["y"]),
    ]
    zero = numpy_helper.from_array(np.float32(0), "zero")
    return _model(nodes, [*_weights(("w0", 8, 32), ("w1", 24, 5)), zero], ["n", 8], ["n", 5])


def loop() -> onnx.ModelProto:
    """A state that a loop updates through a wider layer."""
    inner = [
        helper.make_node("MatMul", ["s", "l1"], ["lh"]),
        helper.make_node("Relu", ["lh"], ["lr"]),
        helper.make_node("MatMul", ["lr", "l2"], ["lo"]),
        helper.make_node("Identity", ["go"], ["going"]),
    ]
    ends = [
        helper.make_tensor_value_info("i", TensorProto.INT64, []),
        helper.make_tensor_value_info("go", TensorProto.BOOL, []),
    ]
    out = helper.make_tensor_value_info("going", TensorProto.BOOL, [])
    body = helper.make_graph(
        inner, "body", [*ends, _value("s")], [out, _value("lo")], _weights(("l1", 32, 48), ("l2", 48, 32))
    )
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["h"]),
        helper.make_node("Loop", ["three", "", "h"], ["t"], body=body),
        helper.make_node("MatMul", ["t", "w1"], ["y"]),
    ]
    three = numpy_helper.from_array(np.array(3, np.int64), "three")
    return _model(nodes, [*_weights(("w0", 8, 32), ("w1", 32, 5)), three], ["n", 8], ["n", 5])


def scan() -> onnx.ModelProto:
    """A recurrent cell over time steps, its state and its outputs."""
    inner = [
        helper.make_node("MatMul", ["xt", "i"], ["si"]),
        helper.make_node("MatMul", ["s", "r"], ["sr"]),
        helper.make_node("Add", ["si", "sr"], ["ss"]),
        helper.make_node("Tanh", ["ss"], ["so"]),
        helper.make_node("Identity", ["so"], ["st"]),
    ]
    weights = _weights(("i", 8, 32), ("r", 32, 32))
    body = helper.make_graph(
        inner, "cell", [_value("s"), _value("xt")], [_value("so"), _value("st")], weights
    )
    state = numpy_helper.from_array(np.zeros((1, 32), np.float32), "s0")
    nodes = [
        helper.make_node("Scan", ["s0", "x"], ["last", "all"], body=body, num_scan_inputs=1),
        helper.make_node("MatMul", ["all", "w1"], ["y"]),
    ]
    return _model(nodes, [*_weights(("w1", 32, 5)), state], ["t", 1, 8], ["t", 1, 5])


def carried() -> onnx.ModelProto:
    """The loop with its weights as states that every step hands on, as while loops of other frameworks do."""
    proto = loop()
    node = next(n for n in proto.graph.node if n.op_type == "Loop")
    body = next(a.g for a in node.attribute if a.name == "body")
    for weight in body.initializer:
        body.input.append(_value(f"{weight.name}_in", list(weight.dims)))
        body.output.append(_value(f"{weight.name}_out", list(weight.dims)))
        for inner in body.node:
            inner.input[:] = [f"{weight.name}_in" if n == weight.name else n for n in inner.input]
        body.node.append(helper.make_node("Identity", [f"{weight.name}_in"], [f"{weight.name}_out"]))
        node.input.append(weight.name)
        node.output.append(f"{weight.name}_last")
    proto.graph.initializer.extend(body.initializer)
    del body.initializer[:]
    return proto


NETS = [(branches, {32, 48, 24}), (loop, {32, 48}), (carried, {32, 48}), (scan, {32})]


@pytest.mark.parametrize(("net", "groups"), NETS)
def test_widths_inside_and_through_bodies_shrink(
    net: Callable[[], onnx.ModelProto], groups: set[int]
) -> None:
    model = models.loaded(net())
    assert {g.size for g in po.inspect(model).groups} == groups
    report = po.prune(model, passes="width{ratio=0.5}", timed=False).report
    assert report["equivalence"]["max_rel_error"] < 1e-5
    assert report["output"]["params"] / report["input"]["params"] < 0.55


def test_bodies_with_equal_names_stay_as_they_are() -> None:
    proto = branches()
    for attribute in proto.graph.node[4].attribute:
        for node in attribute.g.node:
            if node.op_type != "If":
                node.output[0] = node.output[0].replace("b", "a")
                node.input[0] = node.input[0].replace("b", "a")
        attribute.g.output[0].name = "ao"
    report = po.prune(models.loaded(proto), passes="width{ratio=0.5}", timed=False).report
    assert report["equivalence"]["max_rel_error"] < 1e-5


def test_a_state_that_no_step_changes_is_none() -> None:
    model = models.loaded(carried())
    free_invariants(model.graph)
    node = next(n for n in model.graph.nodes if n.op == "Loop")
    assert [t.name for t in node.inputs] == ["three", "", "h"]
    assert [t.name for t in node.outputs] == ["t"]
    assert len(node.attrs["body"].inputs) == 3
    assert len(node.attrs["body"].outputs) == 2
    x = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)
    expected, found = (Session(m).run({"x": x})["y"] for m in (models.loaded(carried()), model))
    assert np.allclose(expected, found, atol=1e-6)


def test_a_state_that_is_collected_at_every_step_stays() -> None:
    proto = carried()
    node = next(n for n in proto.graph.node if n.op_type == "Loop")
    body = next(a.g for a in node.attribute if a.name == "body")
    body.output.append(_value("l1_in", [32, 48]))
    node.output.append("all")
    model = models.loaded(proto)
    free_invariants(model.graph)
    node = next(n for n in model.graph.nodes if n.op == "Loop")
    assert "l1" in {t.name for t in node.inputs}
    assert "l2" not in {t.name for t in node.inputs}


@pytest.mark.parametrize("flag", [True, False])
def test_a_branch_that_is_always_taken_takes_the_place_of_its_if(flag: bool) -> None:
    proto = branches()
    del proto.graph.node[2:4]
    proto.graph.initializer.append(numpy_helper.from_array(np.array(flag), "c"))
    model = models.loaded(proto)
    result = po.prune(model, passes="width{ratio=0.5}", timed=False)
    assert "If" not in {node.op for node in result.model.graph.nodes}
    assert ("Relu" if flag else "Tanh") in [node.op for node in result.model.graph.nodes][2:]
    assert result.report["equivalence"]["max_rel_error"] < 1e-5


RATES = """<ir_version: 8, opset_import: ["" : 17]>
g (float[n, s] x, int64 rate) => (float[n, 5] y) {
    high = Equal (rate, sixteen)
    o = If (high) <
        then_branch = t () => (float[n, 24] to) {
            th = MatMul (x, a1)
            tr = Relu (th)
            few = Less (rate, sixteen)
            ti = If (few) <
                then_branch = tt () => (float[n, 24] tto) { tto = MatMul (tr, a2) },
                else_branch = te () => (float[n, 24] teo) { ten = Neg (tr) teo = MatMul (ten, a2) }
            >
            to = Add (ti, shift)
        },
        else_branch = e () => (float[n, 24] eo) {
            eh = MatMul (x, b1)
            eb = Add (eh, shift)
            eo = Tanh (eb)
        }
    >
    y = MatMul (o, w) }"""


def rates() -> onnx.ModelProto:
    """As Silero's voice detector: 32 samples at rate 16, else 16 samples, a bias for both, one If in another."""
    proto = onnx.parser.parse_model(RATES)
    arrays = {"sixteen": np.array(16), "shift": np.random.default_rng(1).standard_normal(24, np.float32)}
    proto.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in arrays.items())
    proto.graph.initializer.extend(_weights(("a1", 32, 48), ("a2", 48, 24), ("b1", 16, 24), ("w", 24, 5)))
    return proto


def test_a_branch_that_no_data_takes_stays_and_the_other_shrinks() -> None:
    """Nothing that is drawn runs; what is given does, but not through the other branch."""
    rng, model = np.random.default_rng(2), models.loaded(rates())
    given = [{"x": rng.standard_normal((1, 32), np.float32), "rate": np.array(16)} for _ in range(5)]
    plain, mended = (
        po.prune(model, passes=passes, calib=given, timed=False)
        for passes in ("width{ratio=0.5}", "width{ratio=0.5}, repair")
    )
    assert {g["size"]: g["kept"] for g in plain.report["groups"]} == {48: 24}
    other = {"x": rng.standard_normal((1, 16), np.float32), "rate": np.array(8)}
    expected, found = (Session(m).run(other)["y"] for m in (model, plain.model))
    np.testing.assert_array_equal(expected, found)
    assert mended.report["fidelity"]["y"]["rel_l2"] < plain.report["fidelity"]["y"]["rel_l2"]


def test_branches_in_a_branch_that_is_taken_are_taken() -> None:
    proto = rates()
    del proto.graph.input[1]
    proto.graph.initializer.append(numpy_helper.from_array(np.array(16), "rate"))
    result = po.prune(models.loaded(proto), passes="width{ratio=0.5}", timed=False)
    assert "If" not in {node.op for node in result.model.graph.nodes}
    assert {g["kept"] for g in result.report["groups"]} == {24, 12}
