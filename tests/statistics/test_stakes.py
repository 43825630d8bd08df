"""What errors of scores are worth: by how likely classes are."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from pruneopt import api
from pruneopt.model import Model
from pruneopt.passes.statistics.readings import log_softmax
from pruneopt.passes.statistics.stakes import Stakes

CLASSES = 40
ENDS = {"z": "", "y": "y = Softmax <axis = -1> (z)"}  # by the name of the output


def classifier(end: str) -> tuple[Model, np.ndarray]:
    """Classes are likely in turn: the first is in all samples, the last hardly ever."""
    rng = np.random.default_rng(0)
    text = (
        f'<ir_version: 8, opset_import: ["": 11]> g (float[n, 16] x) => (float[n, {CLASSES}] {end}) '
        f"{{ q = MatMul(x, w) z = Add(q, b) {ENDS[end]} }}"
    )
    proto = onnx.parser.parse_model(text)
    weight = rng.standard_normal((16, CLASSES)).astype(np.float32)
    bias = np.linspace(4, -4, CLASSES).astype(np.float32)
    proto.graph.initializer.extend(
        onnx.numpy_helper.from_array(a, n) for a, n in ((weight, "w"), (bias, "b"))
    )
    rows = 2 * rng.standard_normal((8, 64, 16)).astype(np.float32)
    return Model.from_proto(proto), rows


@pytest.mark.parametrize("end", ENDS)
def test_small_errors_of_scores_do_the_harm_that_was_said(end: str) -> None:
    model, rows = classifier(end)
    context = api.make_context(model, calib=[{"x": x} for x in rows])
    found = Stakes.of(model, context).of_layers(model.graph)
    assert {"z", "q"} <= found.keys()
    scores = np.concatenate([context.session(model, ["z"]).run({"x": x})["z"] for x in rows]).astype(
        np.float64
    )
    p = np.exp(log_softmax(scores))
    assert np.allclose(found["z"], p.mean(0) / 2, rtol=0.3, atol=2e-3)
    assert (found["z"].sum() > 0.5 + 1e-4) == (end == "z")  # squared distances of scores count a little
    errors = 0.01 * np.random.default_rng(1).standard_normal(scores.shape)
    moved = (p * (log_softmax(scores) - log_softmax(scores + errors))).sum(1).mean()
    foretold = (np.square(errors) @ found["z"]).mean()
    assert foretold / 8 < moved < foretold


def test_classes_that_few_samples_show_once_speak_for_those_that_they_do_not_show() -> None:
    """Of 400 classes some samples show less than half, most of them once; of ten they show all, often."""
    text = (
        '<ir_version: 8, opset_import: ["": 17]> g (float[n, 400] x) => (float[n, 400] y) { y = Softmax(x) }'
    )
    model = Model.from_proto(onnx.parser.parse_model(text))
    rng = np.random.default_rng(0)

    def share_of_others(classes: int) -> float:
        drawn = rng.integers(0, classes, 200)
        x = 20 * np.eye(400, dtype=np.float32)[drawn]
        found = Stakes.of(model, api.make_context(model, calib=[{"x": x}])).of_outputs["y"]
        return float(np.delete(found, drawn).sum() / found.sum())

    assert share_of_others(10) < 1e-3
    assert 0.1 < share_of_others(400) < 0.5


def test_values_that_are_no_classes_count_alike() -> None:
    model, rows = classifier("z")
    few = [{"x": np.zeros_like(rows[0])}]
    assert not Stakes.of(model, api.make_context(model, calib=few)).of_outputs
    assert not Stakes.of(model, api.make_context(model)).of_outputs
