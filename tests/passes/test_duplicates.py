"""Nodes that repeat others: one stays; what is drawn, named as an output, or has a body stays as well."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from pruneopt import api
from pruneopt.passes.base import Outcome
from pruneopt.passes.pipeline import Pipeline
from pruneopt.passes.simplify import Simplify
from tests import models

UNARY = ("Relu", "Tanh", "Neg", "Abs", "Sigmoid")


def simplified(proto: onnx.ModelProto) -> Outcome:
    model = models.loaded(proto)
    return Pipeline([Simplify()]).run(model, api.make_context(model))


def ops(outcome: Outcome) -> Counter[str]:
    return Counter(n.op for n in outcome.model.graph.nodes)


def graph(
    nodes: list[onnx.NodeProto], outputs: list[str], weights: dict[str, np.ndarray] | None = None
) -> onnx.ModelProto:
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 8]) for n in ("x", *outputs)]
    stored = [numpy_helper.from_array(a, n) for n, a in (weights or {}).items()]
    made = helper.make_graph(nodes, "g", ends[:1], ends[1:], stored)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_chain_that_is_there_twice_is_there_once() -> None:
    nodes = [
        helper.make_node(op, [a], [b])
        for i in "12"
        for op, a, b in (("Relu", "x", f"a{i}"), ("Tanh", f"a{i}", f"b{i}"), ("Neg", f"b{i}", f"c{i}"))
    ]
    outcome = simplified(graph([*nodes, helper.make_node("Add", ["c1", "c2"], ["y"])], ["y"]))
    assert ops(outcome) == {"Relu": 1, "Tanh": 1, "Neg": 1, "Add": 1}
    assert outcome.entry["passes"][0]["equivalence"]["max_rel_error"] == 0


def test_attributes_and_weights_tell_nodes_apart() -> None:
    weights = {n: np.full((8, 8), 0.1, np.float32) for n in ("w1", "w2")}
    nodes = [
        helper.make_node("LeakyRelu", ["x"], ["a"], alpha=0.1),
        helper.make_node("LeakyRelu", ["x"], ["b"], alpha=0.2),
        helper.make_node("MatMul", ["x", "w1"], ["c"]),
        helper.make_node("MatMul", ["x", "w2"], ["d"]),  # equal now, but two layers
        helper.make_node("Sum", ["a", "b", "c", "d"], ["y"]),
    ]
    assert ops(simplified(graph(nodes, ["y"], weights))) == {"LeakyRelu": 2, "MatMul": 2, "Sum": 1}


def test_sizes_and_scalars_count_by_value() -> None:
    weights = {n: np.array([1], np.int64) for n in ("one", "uno")} | {
        n: np.array(0.5, np.float32) for n in ("half", "mezzo")
    }
    nodes = [
        helper.make_node("Mul", ["x", "half"], ["a"]),
        helper.make_node("Mul", ["x", "mezzo"], ["b"]),
        helper.make_node("Unsqueeze", ["a", "one"], ["c"]),
        helper.make_node("Unsqueeze", ["b", "uno"], ["d"]),
        helper.make_node("Add", ["c", "d"], ["e"]),
        helper.make_node("Squeeze", ["e", "one"], ["y"]),
    ]
    assert ops(simplified(graph(nodes, ["y"], weights))) == {"Mul": 1, "Unsqueeze": 1, "Add": 1, "Squeeze": 1}


def test_outputs_keep_their_names() -> None:
    nodes = [helper.make_node("Relu", ["x"], [name]) for name in ("y", "a", "z")]
    nodes.append(helper.make_node("Neg", ["a"], ["w"]))
    outcome = simplified(graph(nodes, ["y", "z", "w"]))
    assert ops(outcome) == {"Relu": 2, "Neg": 1}  # `a` is what `y` is
    assert [t.name for t in outcome.model.graph.outputs] == ["y", "z", "w"]


@pytest.mark.parametrize("op", ["RandomNormalLike", "Bernoulli"])
def test_what_is_drawn_twice_differs(op: str) -> None:
    nodes = [
        helper.make_node("Sigmoid", ["x"], ["p"]),
        helper.make_node(op, ["p"], ["a"]),
        helper.make_node(op, ["p"], ["b"]),
        helper.make_node("Sub", ["a", "b"], ["c"]),
        helper.make_node("Mul", ["c", "zero"], ["d"]),
        helper.make_node("Add", ["d", "x"], ["y"]),
    ]
    assert ops(simplified(graph(nodes, ["y"], {"zero": np.zeros(8, np.float32)})))[op] == 2


def branch(name: str, source: str) -> onnx.GraphProto:
    out = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
    return helper.make_graph([helper.make_node("Relu", [source], [name])], name, [], [out])


def test_bodies_read_the_one_that_stays() -> None:
    """Two equal chains, one of them read inside a body only; the If nodes themselves stay two."""
    nodes = [
        helper.make_node("Tanh", ["x"], ["a"]),
        helper.make_node("Tanh", ["x"], ["b"]),
        helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
        helper.make_node("Greater", ["m", "zero"], ["c"]),
        *(
            helper.make_node(
                "If", ["c"], [f"i{k}"], then_branch=branch(f"t{k}", "b"), else_branch=branch(f"e{k}", "a")
            )
            for k in "12"
        ),
        helper.make_node("Add", ["i1", "i2"], ["y"]),
    ]
    outcome = simplified(graph(nodes, ["y"], {"zero": np.array(0, np.float32)}))
    assert ops(outcome) == {"Tanh": 1, "ReduceMax": 1, "Greater": 1, "If": 2, "Add": 1}
    assert outcome.entry["passes"][0]["equivalence"]["max_rel_error"] == 0


@given(st.lists(st.tuples(st.sampled_from(UNARY), st.integers(0, 9)), min_size=2, max_size=14))
@settings(deadline=None, max_examples=25)
def test_any_graph_computes_the_same(steps: list[tuple[str, int]]) -> None:
    """Random trees of ops over few names, so that many repeat; afterwards none does."""
    names = ["x"]
    nodes = []
    for i, (op, at) in enumerate(steps):
        nodes.append(helper.make_node(op, [names[at % len(names)]], [f"t{i}"]))
        names.append(f"t{i}")
    nodes.append(helper.make_node("Sum", names, ["y"]))
    outcome = simplified(graph(nodes, ["y"]))
    left = [(n.op, *(t.name for t in n.inputs)) for n in outcome.model.graph.nodes]
    assert len(set(left)) == len(left)
    for entry in outcome.entry["passes"]:
        assert entry.get("equivalence", {"max_rel_error": 0})["max_rel_error"] == 0
