"""The pass on whole models: what is stored, what stays, and what the report says."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import pruneopt as po
from pruneopt.errors import PruneoptError, UsageError
from pruneopt.frontends.dimensions import Feeds
from pruneopt.frontends.synthetic import synthetic
from pruneopt.model import Model
from tests import models
from tests.passes.test_bodies import branches


def data(model: Model, count: int = 6) -> list[Feeds]:
    """Batches of one size."""
    sizes = {d: 12 for t in model.inputs for d in t.shape if isinstance(d, str)}
    return [synthetic(model, sizes, i) for i in range(count)]


def weights(model: Model) -> dict[str, Any]:
    return {t.name: numpy_helper.to_array(t) for t in model.proto().graph.initializer}


def entry(result: po.Result) -> dict[str, Any]:
    found: dict[str, Any] = next(p for p in result.report["passes"] if p["pass"] == "sparsify")
    return found


def moved(result: po.Result) -> float:
    return max(float(m["rel_l2"]) for m in result.report["fidelity"].values())


def shared_outputs(matrix: Any) -> bool:
    """Whether blocks of 16 outputs, of a matrix [outputs, features], share their zeros."""
    zero = matrix == 0
    return all((zero[i : i + 16] == zero[i]).all() for i in range(0, len(zero), 16))


@pytest.mark.parametrize("method", ["magnitude", "ria", "wanda", "sparsegpt", "admm"])
def test_matmul_gemm_and_conv_are_read_by_outputs(method: str) -> None:
    for proto in (models.transformer(), models.convnet(), gemms()):
        model = models.loaded(proto)
        result = po.prune(
            model,
            passes=f"sparsify{{sparsity=0.5, pattern=16x1, method={method}, allocation=uniform}}",
            calib=data(model),
            timed=False,
        )
        stored, names = weights(result.model), {each["name"]: each for each in entry(result)["layers"]}
        assert names
        for node in result.model.proto().graph.node:
            if node.op_type in ("MatMul", "Gemm", "Conv") and node.input[1] in names:
                array = stored[node.input[1]]
                transposed = any(a.name == "transB" and a.i for a in node.attribute)
                by_outputs = node.op_type == "Conv" or transposed
                matrix = array.reshape(len(array), -1) if by_outputs else array.T
                assert shared_outputs(matrix)
                assert abs((matrix == 0).mean() - 0.5) < 0.05
                assert names[node.input[1]]["sparsity"] == pytest.approx((matrix == 0).mean())


def gemms() -> onnx.ModelProto:
    """A Gemm each way, and a MatMul whose weight is stored transposed."""
    b = models.Builder()
    x = b.node("Gemm", "x", b.weight(40, 32), b.weight(40), transB=1)
    x = _plain(b, x)
    x = b.node("MatMul", b.node("Relu", x), b.node("Transpose", b.weight(64, 48, name="turned"), perm=[1, 0]))
    b.node("MatMul", x, b.weight(64, 3), outputs=["y"])
    return b.model({"x": ["n", 32]}, {"y": ["n", 3]})


def _plain(b: models.Builder, x: str) -> str:
    return b.node("Gemm", b.node("Relu", x), b.weight(40, 48), b.weight(48))


def test_weights_behind_a_transpose_take_part() -> None:
    model = models.loaded(gemms())
    result = po.prune(model, sparsity=0.5, timed=False)
    layers = entry(result)["layers"]
    assert [each["shape"] for each in layers] == [[1, 40, 32], [1, 48, 40], [1, 64, 48]]
    (small,) = entry(result)["left"]
    assert "3 outputs by 64 features" in small["why"]


@pytest.mark.parametrize("pattern", ["unstructured", "16x1", "2:4", "1x16"])
def test_refitting_moves_the_outputs_least(pattern: str) -> None:
    model = models.loaded(models.transformer())
    cut = f"sparsify{{sparsity=0.5, pattern={pattern}, allocation=uniform, method="
    results = {
        name: po.prune(model, passes=f"{cut}{name}}}", calib=data(model), timed=False)
        for name in ("magnitude", "sparsegpt")
    }
    assert moved(results["sparsegpt"]) < 0.95 * moved(results["magnitude"])
    for a, b in zip(*(entry(r)["layers"] for r in results.values()), strict=True):
        assert b["error"] < a["error"]


def test_two_runs_give_the_same_bytes() -> None:
    model = models.loaded(models.convnet())
    first, second = (
        po.prune(model, sparsity=0.6, pattern="16x1", calib=data(model), timed=False).model for _ in range(2)
    )
    assert first.proto().SerializeToString(deterministic=True) == second.proto().SerializeToString(
        deterministic=True
    )


def test_a_bias_takes_over_the_mean() -> None:
    b = models.Builder()
    x = b.node("MatMul", "x", b.weight(64, 64))
    b.node("Add", x, b.value(np.zeros(64), np.float32), outputs=["y"])
    model = models.loaded(b.model({"x": ["n", 64]}, {"y": ["n", 64]}))
    rng = np.random.default_rng(0)
    batches = [{"x": (5 + rng.standard_normal((256, 64))).astype(np.float32)} for _ in range(6)]
    result = po.prune(model, sparsity=0.8, calib=batches, timed=False)
    run = result.model
    assert [n.op for n in run.graph.nodes] == ["MatMul", "Add"]
    assert moved(result) < 0.2  # the mean is most of the output here
    assert entry(result)["layers"][0]["error"] > 0.1


def test_grouped_convolutions_have_a_matrix_per_group() -> None:
    b = models.Builder()
    b.node("Conv", "x", b.weight(64, 16, 3, 3), outputs=["y"], group=2, pads=[1] * 4)
    model = models.loaded(b.model({"x": ["n", 32, 8, 8]}, {"y": ["n", 64, 8, 8]}))
    result = po.prune(model, sparsity=0.5, pattern="2:4", calib=data(model), timed=False)
    assert entry(result)["layers"][0]["shape"] == [2, 32, 144]
    (array,) = weights(result.model).values()
    assert ((array.reshape(64, -1, 4) != 0).sum(2) == 2).all()


def test_the_pattern_says_how_many() -> None:
    model = models.loaded(models.transformer())
    result = po.prune(model, pattern="1:4", calib=data(model), timed=False)
    assert entry(result)["sparsity"] == 0.75


def test_what_is_kept_stays() -> None:
    model = models.loaded(models.transformer())
    before = weights(model)
    result = po.prune(model, sparsity=0.5, keep=["embed"], timed=False)
    after = weights(result.model)
    assert np.array_equal(before["embed"], after["embed"])
    assert {"name": "embed", "why": "kept as asked"} in entry(result)["left"]
    assert {"name": "head", "why": "a matrix of 7 outputs by 64 features has nothing to gain"} in entry(
        result
    )["left"]


def test_only_what_is_asked_for() -> None:
    model = models.loaded(models.transformer())
    result = po.prune(model, passes="sparsify{sparsity=0.5, only=embed}", timed=False)
    assert [each["name"] for each in entry(result)["layers"]] == ["embed"]


def test_tied_weights_stay() -> None:
    model = models.loaded(models.tied_language_model())
    before = weights(model)["table"]
    result = po.prune(model, sparsity=0.5, timed=False)
    assert np.array_equal(before, weights(result.model)["table"])


def test_bodies_stay() -> None:
    with pytest.raises(PruneoptError, match="'b1': inside a control-flow body"):
        po.prune(models.loaded(branches()), sparsity=0.5, timed=False)


def test_without_data_it_is_said() -> None:
    model = models.loaded(models.transformer())
    lines: list[str] = []
    result = po.prune(model, sparsity=0.5, timed=False, progress=lines.append)
    assert entry(result)["method"] == "ria"
    assert not entry(result)["data"]
    assert any("no calibration data" in line for line in lines)
    with pytest.raises(UsageError, match="--calib"):
        po.prune(model, passes="sparsify{sparsity=0.5, method=wanda}", timed=False)


def test_nothing_to_do_is_an_error() -> None:
    with pytest.raises(PruneoptError, match="not asked for"):
        po.prune(models.loaded(models.convnet()), passes="sparsify{sparsity=0.5, only=nothing}", timed=False)


@pytest.mark.parametrize(
    "text", ["sparsify", "sparsify{sparsity=1.5}", "sparsify{pattern=2:2}", "sparsify{method=x}"]
)
def test_options_that_make_no_sense(text: str) -> None:
    with pytest.raises(UsageError):
        po.prune(models.loaded(models.convnet()), passes=text, timed=False)


def test_half_precision_stays_half() -> None:
    b = models.Builder()
    half = b.value(b.rng.standard_normal((32, 32)) / 6, np.float16)
    x = b.node("Cast", "x", to=onnx.TensorProto.FLOAT16)
    b.node("Cast", b.node("MatMul", x, half), outputs=["y"], to=onnx.TensorProto.FLOAT)
    model = models.loaded(b.model({"x": ["n", 32]}, {"y": ["n", 32]}))
    result = po.prune(model, pattern="2:4", calib=data(model), timed=False)
    array = weights(result.model)[half]
    assert array.dtype == np.float16
    assert ((array.T.reshape(32, -1, 4) != 0).sum(2) <= 2).all()
