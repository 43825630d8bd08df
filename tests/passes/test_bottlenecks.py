"""Widths under no norm that are linear all round get a basis whose last entries matter least; others are left alone."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from pruneopt.api import make_context
from pruneopt.backends.session import Session
from pruneopt.model import Model, values
from pruneopt.passes.base import Outcome
from pruneopt.passes.pipeline import Pipeline
from pruneopt.passes.rotate import Rotate
from tests import models
from tests.models import Builder

WIDTH = 16
FEEDS = [{"x": np.random.default_rng(i).standard_normal((4, 3, 6, 6)).astype(np.float32)} for i in range(6)]


def net(on_stream: str = "", tied: bool = False, window: int = 1) -> onnx.ModelProto:
    """A linear stem of three channels and two inverted bottlenecks of three neurons: nine directions of sixteen."""
    b = Builder()
    x = b.node("Conv", "x", b.weight(WIDTH, 3, 1, 1))
    expand = b.weight(3, WIDTH, window, window)
    for _ in range(2):
        if on_stream == "Conv":
            x = b.node("Conv", x, b.weight(WIDTH, 1, 3, 3), pads=[1] * 4, group=WIDTH)
        elif on_stream:
            x = b.node(on_stream, x)
        y = b.node("Conv", x, expand if tied else b.weight(3, WIDTH, window, window), pads=[window // 2] * 4)
        y = b.node("Conv", b.node("Relu", y), b.weight(WIDTH, 3, 1, 1))
        x = b.node("Add", x, y)
    y = b.node("Relu", b.node("Conv", x, b.weight(24, WIDTH, 1, 1)))
    y = b.node("Flatten", b.node("GlobalAveragePool", y))
    b.node("Gemm", y, b.weight(5, 24), b.value(np.zeros(5), np.float32), outputs=["y"], transB=1)
    return b.model({"x": ["n", 3, 6, 6]}, {"y": ["n", 5]})


def turned(proto: onnx.ModelProto) -> tuple[Model, Outcome]:
    model = models.loaded(proto)
    return model, Pipeline((Rotate(axes="stream"),)).run(model, make_context(model, FEEDS))


def moved_without(model: Model, dense: Model, count: int) -> float:
    """How far outputs move when the readers of the stream lose its last entries, without any repair."""
    cut = model.copy()
    for node in cut.graph.nodes:
        if node.op == "Conv" and node.inputs[1].shape[1] == WIDTH:
            weight = np.array(values(node.inputs[1]))
            weight[:, WIDTH - count :] = 0
            node.inputs[1].values = weight
    a, b = (Session(m).run(FEEDS[0])["y"] for m in (dense, cut))
    return float(np.linalg.norm(a - b) / np.linalg.norm(a))


@pytest.mark.parametrize("window", [1, 3])
def test_what_nobody_hears_comes_last(window: int) -> None:
    model, outcome = turned(net(window=window))
    entry = outcome.entry["passes"][0]
    assert entry["streams"] == 1
    assert float(entry["equivalence"]["max_rel_error"]) < 1e-5
    assert len(outcome.model.graph.nodes) == len(model.graph.nodes)
    assert moved_without(model, model, 7) > 0.1
    assert moved_without(outcome.model, model, 7) < 1e-2


def test_the_basis_makes_entries_independent_and_of_variance_one() -> None:
    _, outcome = turned(net())
    stem = outcome.model.graph.nodes[0].outputs[0].name
    first = next(n for n in outcome.model.graph.nodes if n.op == "Add").outputs[0].name
    second = [n for n in outcome.model.graph.nodes if n.op == "Add"][1].outputs[0].name
    session = Session(outcome.model, [stem, first, second])
    found = [session.run(batch) for batch in FEEDS]
    tensors = [
        np.concatenate([f[name] for f in found]).transpose(0, 2, 3, 1) for name in (stem, first, second)
    ]
    mean = np.mean([np.cov(t.reshape(-1, WIDTH).T) for t in tensors], axis=0)
    assert np.abs(mean[:6, :6] - np.eye(6)).max() < 0.15  # of other samples, and damped


@pytest.mark.parametrize("on_stream", ["Relu", "Conv"])
def test_what_is_not_linear_is_left_alone(on_stream: str) -> None:
    _, outcome = turned(net(on_stream))
    assert outcome.entry["passes"][0]["streams"] == 0


def test_a_weight_that_is_used_twice_is_left_alone() -> None:
    _, outcome = turned(net(tied=True))
    assert outcome.entry["passes"][0]["streams"] == 0
