"""Models with kernels where the library, or ONNX Runtime itself, is not there."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

pytest.importorskip("tvm", reason="sparse kernels are compiled by TVM")

from pruneopt.backends.session import Session
from pruneopt.backends.tvm.compiler import Plan
from pruneopt.backends.tvm.fallback import INPUTS, function
from pruneopt.backends.tvm.packing import pack
from pruneopt.backends.tvm.whole import opened
from pruneopt.runtime import session
from pruneopt.tune import tune
from tests.backends.tvm.guarded import random_layer, random_schedule, random_weight, reference
from tests.backends.tvm.nets import RNG, convolutional, perceptron, separable, twice


def test_the_fallback_runs_without_the_library_and_gives_way_to_it(tmp_path: Path) -> None:
    dense = perceptron()
    out = tmp_path / "out.onnx"
    options: dict[str, Any] = {"trials": 1, "sizes": {"t": 20}, "gate": False, "cache": tmp_path / "records"}
    tune(dense, out, fallback=True, **options)
    x = RNG.standard_normal((2, 3, 96)).astype(np.float32)
    wanted = Session(dense).run({"x": x})["y"]
    alone = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(alone.run(None, {"x": x})[0], wanted, rtol=1e-5, atol=1e-5)
    profile = onnxruntime.SessionOptions()
    profile.enable_profiling = True
    profile.profile_file_prefix = str(tmp_path / "profile")
    opened = session(out, profile)
    np.testing.assert_allclose(opened.run(None, {"x": x})[0], wanted, rtol=1e-4, atol=1e-4)
    ran = {
        event["args"]["op_name"]
        for event in json.loads(Path(opened.end_profiling()).read_text())
        if "op_name" in event.get("args", {})
    }
    assert all(name.startswith("sparse_") for name in ran)


@pytest.mark.parametrize("number", [*range(12), 13, 19])  # the last two look inputs up
def test_the_fallback_of_random_kernels_is_what_they_compute(number: int) -> None:
    rng = random.Random(number)
    layer = random_layer(rng)
    lanes = rng.choice([4, 8, 16])
    plan = Plan(layer, random_schedule(rng, layer, lanes), lanes)
    data = np.random.default_rng(number)
    weight = random_weight(data, layer, plan.schedule)
    bias = data.standard_normal(layer.groups * layer.outputs).astype(np.float32)
    packed = pack(weight, bias, layer, plan.schedule, plan.places())
    image = layer.image
    shape = (3, layer.groups * layer.channels, *image.size) if image else (3, layer.inputs)
    x = data.standard_normal(shape).astype(np.float32)
    node = onnx.helper.make_node(plan.name, list(INPUTS), ["y"], domain="pruneopt")
    arrays = {
        "values": packed.values,
        "offsets": packed.offsets,
        "starts": packed.starts,
        "bias": packed.bias,
    }
    ends = [
        onnx.helper.make_tensor_value_info("x", 1, shape),
        onnx.helper.make_tensor_value_info("y", 1, None),
    ]
    stored = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = onnx.helper.make_graph([node], "g", ends[:1], ends[1:], stored)
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("pruneopt", 1)]
    made = onnx.helper.make_model(
        graph, functions=[function("pruneopt", plan, 17)], opset_imports=opsets, ir_version=8
    )
    alone = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    wanted = reference(x, weight, bias, layer)
    error = np.abs(alone.run(None, {"x": x})[0] - wanted).max() / max(1.0, np.abs(wanted).max())
    assert error < 1e-5


@pytest.mark.parametrize("threads", [1, 2])
def test_the_whole_model_without_onnxruntime(tmp_path: Path, threads: int) -> None:
    nets = (
        (perceptron(), (2, 20, 96)),
        (convolutional(), (2, 16, 14, 14)),
        (separable(), (2, 8, 15, 14)),
        (twice(), (3, 64)),
    )
    for number, (dense, shape) in enumerate(nets):
        x = RNG.standard_normal(shape).astype(np.float32)
        out = tmp_path / f"{number}.so"
        tune(dense, out, trials=1, calib=[{"x": x}], threads=threads, cache=tmp_path / "records")
        found = opened(out, threads)([x])[0]
        np.testing.assert_allclose(found, Session(dense).run({"x": x})["y"], rtol=1e-4, atol=1e-4)
