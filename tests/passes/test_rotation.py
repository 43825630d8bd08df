"""Residual streams in their principal directions: exact where all is linear along them, left alone elsewhere."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

import pruneopt as po
from pruneopt.api import make_context
from pruneopt.errors import UsageError
from pruneopt.frontends.dimensions import Feeds
from pruneopt.frontends.synthetic import synthetic
from pruneopt.model import Model
from pruneopt.passes.base import Outcome
from pruneopt.passes.pipeline import Pipeline
from pruneopt.passes.rotate import Rotate
from tests import models
from tests.models import Builder

WIDTH = 16


def data(model: Model, count: int = 6) -> list[Feeds]:
    sizes = {d: 8 for t in model.inputs for d in t.shape if isinstance(d, str)}
    return [synthetic(model, sizes, seed) for seed in range(count)]


def rotated(proto: onnx.ModelProto) -> tuple[Outcome, dict[str, object]]:
    model = models.loaded(proto)
    outcome = Pipeline((Rotate(axes="stream"),)).run(model, make_context(model, data(model)))
    return outcome, outcome.entry["passes"][0]


def gain(b: Builder, plain: bool = False) -> str:
    return b.value(np.ones(WIDTH) if plain else 0.5 + b.rng.random(WIDTH), np.float32)


def layer_norm(b: Builder, x: str) -> str:
    return b.node(
        "LayerNormalization", x, gain(b), b.value(b.rng.standard_normal(WIDTH), np.float32), axis=-1
    )


def rms_norm(b: Builder, x: str, op: str = "Div") -> str:
    square = b.node("Pow", x, b.value(2.0, np.float32))
    mean = b.node("ReduceMean", square, axes=[-1], keepdims=1)
    root = b.node("Sqrt", b.node("Add", mean, b.value(1e-5, np.float32)))
    if op == "Div":
        return b.node("Mul", b.node("Div", x, root), gain(b))
    return b.node("Mul", gain(b), b.node("Mul", x, b.node("Reciprocal", root)))


def block(b: Builder, x: str, normed: str) -> str:
    y = b.node("Relu", b.node("MatMul", normed, b.weight(WIDTH, 24)))
    return b.node("Add", x, b.node("MatMul", y, b.weight(24, WIDTH)))


def net(norm: Callable[[Builder, str], str], opset: int = 20) -> onnx.ModelProto:
    """Pre-norm blocks: embedding, biases, two blocks, mean over tokens, head."""
    b = Builder()
    x = b.node("MatMul", "x", b.weight(6, WIDTH))
    x = b.node("Add", x, b.value(b.rng.standard_normal(WIDTH), np.float32))
    for _ in range(2):
        x = block(b, x, norm(b, x))
    b.node("MatMul", norm(b, x), b.weight(WIDTH, 5), outputs=["y"])
    return b.model({"x": ["n", "s", 6]}, {"y": ["n", "s", 5]}, opset)


@pytest.mark.parametrize("op", ["Div", "Reciprocal"])
def test_rms_norms_written_out(op: str) -> None:
    proto = net(lambda b, x: rms_norm(b, x, op), 17)
    outcome, entry = rotated(proto)
    assert entry["streams"] == 1
    assert len(outcome.model.graph.nodes) == len(proto.graph.node)


@pytest.mark.parametrize("opset", [20, 23])
def test_layer_norms_lose_mean_gain_and_shift(opset: int) -> None:
    outcome, entry = rotated(net(layer_norm, opset))
    ops = [n.op for n in outcome.model.graph.nodes]
    assert entry["streams"] == 1
    assert "LayerNormalization" not in ops
    assert ops.count("RMSNormalization") == (3 if opset == 23 else 0)
    assert float(entry["equivalence"]["max_rel_error"]) < 1e-5  # type: ignore[index]


def test_streams_that_share_a_constant_are_turned_each() -> None:
    """Equal biases are often one constant: centred for both streams, and turned for each (SegFormer)."""
    b = Builder()
    shared, x = b.value(b.rng.standard_normal(WIDTH), np.float32), "x"
    for _ in range(2):
        x = b.node("Add", b.node("MatMul", x, b.weight(6, WIDTH)), shared)
        x = block(b, x, layer_norm(b, x))
        x = b.node("Relu", b.node("MatMul", layer_norm(b, x), b.weight(WIDTH, 6)))
    b.node("MatMul", x, b.weight(6, 5), outputs=["y"])
    _, entry = rotated(b.model({"x": ["n", "s", 6]}, {"y": ["n", "s", 5]}, 20))
    assert entry["streams"] == 2
    assert float(entry["equivalence"]["max_rel_error"]) < 1e-5  # type: ignore[index]


def test_the_last_directions_of_a_narrow_stream_are_empty() -> None:
    """Six inputs and a bias span seven directions before the first block."""
    outcome, _ = rotated(net(layer_norm))
    embed = next(n for n in outcome.model.graph.nodes if n.op == "MatMul").inputs[1].values
    energy = np.square(embed).sum(0)
    assert energy[12:].sum() < energy[:4].sum()


def test_a_scaled_branch_hands_its_scale_to_its_weights() -> None:
    b = Builder()
    x = b.node("MatMul", "x", b.weight(6, WIDTH))
    for _ in range(2):
        y = b.node("Relu", b.node("MatMul", layer_norm(b, x), b.weight(WIDTH, 24)))
        y = b.node("Add", b.node("MatMul", y, b.weight(24, WIDTH)), gain(b))
        x = b.node("Add", x, b.node("Mul", y, gain(b)))
    b.node("MatMul", layer_norm(b, x), b.weight(WIDTH, 5), outputs=["y"])
    outcome, entry = rotated(b.model({"x": ["n", "s", 6]}, {"y": ["n", "s", 5]}, 23))
    assert entry["streams"] == 1
    assert "Mul" not in [n.op for n in outcome.model.graph.nodes]


def test_a_scale_on_the_residual_path_is_left_alone() -> None:
    b = Builder()
    x = b.node("MatMul", "x", b.weight(6, WIDTH))
    for _ in range(3):  # post-norm
        x = layer_norm(b, block(b, x, x))
    b.node("MatMul", x, b.weight(WIDTH, 5), outputs=["y"])
    _, entry = rotated(b.model({"x": ["n", "s", 6]}, {"y": ["n", "s", 5]}, 20))
    assert entry["streams"] == 0
    assert entry["left"]


def test_a_nonlinear_op_on_the_stream_is_left_alone() -> None:
    b = Builder()
    x = b.node("Relu", b.node("MatMul", "x", b.weight(6, WIDTH)))
    x = block(b, x, layer_norm(b, x))
    b.node("MatMul", layer_norm(b, x), b.weight(WIDTH, 5), outputs=["y"])
    _, entry = rotated(b.model({"x": ["n", "s", 6]}, {"y": ["n", "s", 5]}, 20))
    assert entry["streams"] == 0
    assert "Relu" in str(entry["left"])


def tied(words: int, layers: int) -> tuple[Model, list[Feeds]]:
    """A language model whose embedding is also its head, and data for it."""
    b = Builder()
    table = b.weight(words, WIDTH, name="table")
    x = b.node("Gather", table, "ids")
    for _ in range(layers):
        x = block(b, x, rms_norm(b, x))
    head = b.node("Transpose", table, perm=[1, 0])
    b.node("MatMul", rms_norm(b, x), head, outputs=["y"])
    proto = b.model({"ids": ["n", "s"]}, {"y": ["n", "s", words]}, 17)
    proto.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    batches = [{"ids": np.random.default_rng(i).integers(0, words, (4, 9))} for i in range(6)]
    return models.loaded(proto), batches


def test_an_embedding_that_is_also_the_head_stays_one() -> None:
    model, batches = tied(50, 3)
    outcome = Pipeline((Rotate(axes="stream"),)).run(model, make_context(model, batches))
    tables = [t for t in outcome.model.graph.tensors().values() if t.name == "table"]
    assert outcome.entry["passes"][0]["streams"] in (0, 1)
    assert len(tables) == 1


def test_what_a_new_basis_costs_counts() -> None:
    model, batches = tied(800, 6)
    turned = Pipeline((Rotate(axes="stream"),)).run(model, make_context(model, batches)).model
    assert sum(n.op == "MatMul" for n in turned.graph.nodes) > sum(
        n.op == "MatMul" for n in model.graph.nodes
    )
    report = po.prune(model, passes="width{macs=0.9, align=1}", calib=batches, timed=False).report
    assert 0.88 * report["input"]["macs"] < report["output"]["macs"] <= 0.9 * report["input"]["macs"]


def test_the_stream_is_planned_with_all_else_and_no_worse_than_alone() -> None:
    model = models.loaded(models.transformer())
    seen, held = data(model, 10), data(model, 14)[10:]

    def moved(axes: str) -> float:
        passes = f"width{{macs=0.85, axes={axes}}}, repair"
        result = po.prune(model, passes=passes, calib=seen, timed=False)
        assert result.report["output"]["macs"] <= 0.85 * result.report["input"]["macs"]
        found = po.compare(model, result.model, calib=held)["fidelity"]
        return max(float(m["rel_l2"]) for m in found.values())

    together = moved("inner+heads+score+value+stream")
    assert together <= 1.02 * min(moved("inner"), moved("stream"))


def test_unknown_axes_are_named() -> None:
    with pytest.raises(UsageError, match="depth"):
        Rotate(axes="depth")
