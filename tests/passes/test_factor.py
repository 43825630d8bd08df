"""Wide products with a width of their own: exact, nothing stored twice, planned, undone where nothing is saved."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pruneopt as po
from pruneopt import api
from pruneopt.model import Model, values
from pruneopt.passes.factor import Factor
from pruneopt.passes.pipeline import Pipeline

WORDS, WIDTH = 800, 24
HEADS = {
    "turned": "t = Transpose <perm = [1, 0]> (w) z = MatMul(h, t)",
    "own": "z = MatMul(h, v)",
    "own turned": "t = Transpose <perm = [1, 0]> (u) z = MatMul(h, t)",
    "flat": "s = Reshape(h, flat) z = Gemm <transB = 1> (s, w, c)",
}
TIED = ("turned", "flat")


def language_model(head: str = "turned", words: int = WORDS, seed: int = 0) -> Model:
    """Words are looked up in a table `w`, half of whose columns matter little, and told by it or another weight."""
    rng = np.random.default_rng(seed)
    rows = "n" if head == "flat" else "b, t"
    text = (
        f'<ir_version: 8, opset_import: ["": 17]> g (int64[b, t] ids) => (float[{rows}, {words}] y) '
        "{ e = Gather(w, ids) a = MatMul(e, w1) r = Relu(a) d = MatMul(r, w2) h = Add(e, d) "
        f"{HEADS[head]} y = Identity(z) }}"
    )
    proto = onnx.parser.parse_model(text)
    table = rng.standard_normal((words, WIDTH)) * np.where(np.arange(WIDTH) < WIDTH // 2, 1, 0.1)
    weights = {
        "w": table,
        "u": table[::-1] + 0,
        "v": table.T + 0,
        "c": rng.standard_normal(words),
        "w1": rng.standard_normal((WIDTH, 64)) / 5,
        "w2": rng.standard_normal((64, WIDTH)) / 8,
    }
    read = {name for node in proto.graph.node for name in node.input}
    for name in weights.keys() & read:
        array = weights[name].astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    if "flat" in read:
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1, WIDTH]), "flat"))
    return Model.from_proto(proto)


def words(count: int = WORDS, batches: int = 6) -> list[dict[str, Any]]:
    rng = np.random.default_rng(1)
    return [{"ids": rng.integers(0, count, (4, 16))} for _ in range(batches)]


def constants(model: Model) -> dict[str, Any]:
    return {
        t.name: values(t)
        for t in model.graph.tensors().values()
        if isinstance(t, gs.Constant) and len(t.shape)
    }


def inner(model: Model) -> int:
    """The width between the two products."""
    return next(a for name, a in constants(model).items() if "inner_weight" in name).shape[1]  # type: ignore[no-any-return]


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(list(HEADS)), st.integers(0, 99))
def test_two_products_come_to_the_same(head: str, seed: int) -> None:
    model = language_model(head, seed=seed)
    outcome = Pipeline((Factor(),)).run(model, api.make_context(model, calib=words()))
    entry = outcome.entry["passes"][0]
    assert [each["features"] for each in entry["factored"]] == [WIDTH]
    assert entry["factored"][0]["lookups"] == (head in TIED)
    assert entry["equivalence"]["max_rel_error"] < 1e-5
    feeds = {"ids": np.arange(60).reshape(3, 20)}
    before, after = (api.make_context(m).session(m).run(feeds)["y"] for m in (model, outcome.model))
    np.testing.assert_allclose(after, before, atol=1e-5 * np.abs(before).max())


@pytest.mark.parametrize("head", TIED)
def test_a_table_is_stored_once(head: str) -> None:
    model = language_model(head)
    made = Pipeline((Factor(),)).run(model, api.make_context(model, calib=words())).model
    large = [a.shape for a in constants(made).values() if a.size >= WORDS * WIDTH]
    assert large == [(WORDS, WIDTH)]


@pytest.mark.parametrize("head", HEADS)
def test_the_width_between_is_planned(head: str) -> None:
    result = po.prune(language_model(head), passes="width{macs=0.6}, repair", calib=words(), timed=False)
    assert inner(result.model) < WIDTH
    share = result.report["output"]["macs"] / result.report["input"]["macs"]
    assert share <= 0.6
    extra = result.report["output"]["params"] - result.report["input"]["params"]
    assert extra <= 2 * WIDTH * WIDTH + WIDTH


def test_directions_of_classes_that_are_likely_stay() -> None:
    """Of two directions that are as long, one tells words apart that come up, the other such as never do."""
    rng = np.random.default_rng(0)
    table = np.zeros((WORDS, WIDTH), np.float32)
    table[:40, : WIDTH // 2] = 3 * rng.standard_normal((40, WIDTH // 2))
    table[40:, WIDTH // 2 :] = 0.3 * rng.standard_normal((WORDS - 40, WIDTH // 2))
    table[40:, 0] = -3.0
    text = (
        f'<ir_version: 8, opset_import: ["": 17]> g (float[b, {WIDTH}] x) => (float[b, {WORDS}] y) '
        "{ y = MatMul(x, v) }"
    )
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ascontiguousarray(table.T), "v"))
    model = Model.from_proto(proto)
    batches = [{"x": rng.standard_normal((64, WIDTH)).astype(np.float32)} for _ in range(8)]
    result = po.prune(model, passes="width{macs=0.6}", calib=batches, timed=False)
    first = next(a for name, a in constants(result.model).items() if "inner_weight" in name)
    heard = np.linalg.norm(first, axis=1)
    assert heard[: WIDTH // 2].min() > 5 * heard[WIDTH // 2 :].max()


def test_what_saves_nothing_is_undone() -> None:
    passes = "width{macs=0.99, only=w1:1}"
    result = po.prune(language_model(), passes=passes, calib=words(), timed=False)
    entry = next(p for p in result.report["passes"] if p["pass"] == "width")
    assert entry["basis"][-1]["factored"] == []
    assert not any("inner_weight" in name for name in constants(result.model))


def test_few_outputs_other_readers_and_what_is_to_stay_are_left() -> None:
    def left(model: Model, **given: Any) -> bool:
        outcome = Pipeline((Factor(),)).run(model, api.make_context(model, calib=words(300), **given))
        return outcome.model is model or not outcome.entry["passes"][-1]["factored"]

    assert left(language_model(words=WIDTH * 15))
    free = language_model("own")
    free.graph.outputs = [gs.Variable("f", np.float32, ["b", "t", 8])]
    weight = np.random.default_rng(0).standard_normal((WORDS, 8)).astype(np.float32)
    free.graph.nodes.append(
        gs.Node(
            "MatMul", "f", {}, [free.graph.nodes[-1].outputs[0], gs.Constant("p", weight)], free.graph.outputs
        )
    )
    assert left(free)
    assert left(language_model(), keep=("w",))
    shared = language_model()
    table = next(t for t in shared.graph.tensors().values() if t.name == "w")
    out = gs.Variable("more", np.float32, ["b", "t", 1])
    shared.graph.nodes.append(gs.Node("ReduceMax", "more", {}, [table], [out]))
    shared.graph.outputs.append(out)
    assert left(shared)


def test_what_bodies_of_control_flow_read_is_left() -> None:
    """Words are looked up in one branch alone."""
    text = (
        f'<ir_version: 8, opset_import: ["": 17]> g (int64[b, t] ids, bool go, float[b, t, {WIDTH}] x) '
        f"=> (float[b, t, {WORDS}] y) {{ h = If(go) <then_branch = one () => (float[b, t, {WIDTH}] o) "
        f"{{ o = Gather(w, ids) }}, else_branch = two () => (float[b, t, {WIDTH}] q) {{ q = Identity(x) }}> "
        "t2 = Transpose <perm = [1, 0]> (w) y = MatMul(h, t2) }"
    )
    proto = onnx.parser.parse_model(text)
    table = np.random.default_rng(0).standard_normal((WORDS, WIDTH)).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(table, "w"))
    model = Model.from_proto(proto)
    batches = [feeds | {"go": np.array(True), "x": np.zeros((4, 16, WIDTH), np.float32)} for feeds in words()]
    outcome = Pipeline((Factor(),)).run(model, api.make_context(model, calib=batches))
    assert not any(entry.get("factored") for entry in outcome.entry["passes"])


def test_what_says_nothing_of_a_basis_is_no_trouble() -> None:
    """Weights of zeros, and inputs that are always zero."""
    for name in ("v", "w2", "w"):
        model = language_model("own")
        constant = next(t for t in model.graph.tensors().values() if t.name == name)
        constant.values = np.zeros(constant.shape, np.float32)
        outcome = Pipeline((Factor(),)).run(model, api.make_context(model, calib=words()))
        assert all(np.isfinite(array).all() for array in constants(outcome.model).values())


def test_without_data_there_is_no_basis() -> None:
    model = language_model()
    assert Factor().run(model, api.make_context(model)).model is model
