"""Every way to store a matrix: what becomes zero, checked against dense arithmetic in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pruneopt as po
from pruneopt.analysis.infer import analyse
from pruneopt.api import make_context
from pruneopt.errors import PruneoptError
from pruneopt.model import Model
from pruneopt.passes.pipeline import Pipeline
from pruneopt.passes.sparsify import Sparsify
from pruneopt.passes.sparsity import features
from pruneopt.passes.sparsity.features import measure
from pruneopt.passes.sparsity.layers import find_layers
from pruneopt.passes.sparsity.patterns import parse_pattern
from pruneopt.passes.sparsity.sequence import look
from pruneopt.passes.statistics.stream import Stream
from tests import models
from tests.sparsity.test_sparsify import entry, weights

Array = Any
FLAT = ("matmul", "gemm", "gemm_t", "columns")
PATTERNS = st.sampled_from(["unstructured", "16x1", "1x16", "4x4", "2:4x16"]) | st.builds(
    lambda m, n, a: f"{min(n, m - 1)}:{m}" + (f"x{a}" if a > 1 else ""),
    st.integers(2, 9),
    st.integers(1, 8),
    st.integers(1, 16),
)


def flat(kind: str, outputs: int, features: int, seed: int) -> tuple[Model, list[dict[str, Array]]]:
    """One linear layer, written in one of several ways, and data whose features are correlated."""
    rng = np.random.default_rng(seed)
    b = models.Builder()
    ends: tuple[dict[str, Any], dict[str, Any]]
    mix = rng.standard_normal((features, features)) * np.exp(rng.standard_normal(features))
    rows = (rng.standard_normal((6, 5 * features, features)) @ mix).astype(np.float32)
    matrix = (rng.standard_normal((outputs, features)) / np.sqrt(features)).astype(np.float32)
    if kind == "columns":
        b.node("MatMul", b.value(matrix, np.float32), "x", outputs=["y"])
        ends = {"x": ["n", features, "t"]}, {"y": ["n", outputs, "t"]}
        data = [{"x": np.stack(np.split(r.T, 5, axis=1))} for r in rows]
        return models.loaded(b.model(*ends)), data
    if kind == "matmul":
        b.node("MatMul", "x", b.value(matrix.T, np.float32), outputs=["y"])
    else:
        turned = kind == "gemm_t"
        stored = b.value(matrix if turned else matrix.T, np.float32)
        b.node("Gemm", "x", stored, b.weight(outputs), outputs=["y"], transB=int(turned))
    return models.loaded(b.model({"x": ["n", features]}, {"y": ["n", outputs]})), [{"x": r} for r in rows]


def matrix_of(kind: str, model: Model, rank: int = 2) -> Array:
    """The layer's weight, [outputs, features]."""
    array = next(a for a in weights(model).values() if a.ndim == rank)
    return array if kind in ("gemm_t", "columns") else array.T


@given(
    st.sampled_from(FLAT),
    PATTERNS,
    st.sampled_from(["magnitude", "ria", "wanda", "sparsegpt", "admm"]),
    st.integers(16, 40),
    st.integers(16, 50),
    st.integers(0, 1 << 16),
)
@settings(deadline=None, max_examples=40)
def test_a_matrix_stored_any_way(
    kind: str, pattern: str, method: str, outputs: int, features: int, seed: int
) -> None:
    """Zeros stand in the pattern, and the error that is reported is that of the outputs, worked out densely."""
    model, data = flat(kind, outputs, features, seed)
    share = None if ":" in pattern else 0.5
    made = Pipeline((Sparsify(share, pattern, method),)).run(model, make_context(model, data))
    before, after = (matrix_of(kind, m) for m in (model, made.model))
    units = parse_pattern(pattern)
    assert units.holds(after)
    assert abs(units.zero_units(after) - (units.share or 0.5)) <= units.span / features + 1e-9
    rows = np.concatenate(
        [d["x"].swapaxes(-1, -2).reshape(-1, features) if kind == "columns" else d["x"] for d in data]
    )
    z = rows.astype(np.float64)
    moving = kind.startswith("gemm") and method in ("sparsegpt", "admm")
    lost = (z - z.mean(0) * moving) @ (before - after).T.astype(np.float64)
    spread = ((z - z.mean(0)) @ before.T.astype(np.float64)).var(0).sum()
    (layer,) = made.entry["passes"][-1]["layers"]
    assert layer["error"] == pytest.approx(np.square(lost).mean(0).sum() / spread, rel=1e-2, abs=1e-6)


def direct(x: Array, weight: Array, groups: int, stride: int, pad: int, dilation: int) -> Array:
    """A convolution by its definition, float64."""
    outputs, inner, *kernel = weight.shape
    x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    reach = [(k - 1) * dilation + 1 for k in kernel]
    size = [(n - r) // stride + 1 for n, r in zip(x.shape[2:], reach, strict=True)]
    y = np.zeros((len(x), outputs, *size))
    own = outputs // groups
    for o in range(outputs):
        part = x[:, o // own * inner : (o // own + 1) * inner]
        for i, j in np.ndindex(*size):
            h, w = i * stride, j * stride
            window = part[:, :, h : h + reach[0] : dilation, w : w + reach[1] : dilation]
            y[:, o, i, j] = (window * weight[o]).sum((1, 2, 3))
    return y


@given(
    st.sampled_from([1, 2]),
    st.sampled_from([1, 3]),
    st.sampled_from([1, 2]),
    st.sampled_from([0, 1]),
    st.sampled_from([1, 2]),
    PATTERNS,
    st.sampled_from(["wanda", "sparsegpt", "admm"]),
)
@settings(deadline=None, max_examples=20)
def test_convolutions_as_matrices(
    groups: int, kernel: int, stride: int, pad: int, dilation: int, pattern: str, method: str
) -> None:
    """Per group of channels a matrix [outputs, channels * window]; error and outputs against the definition."""
    rng = np.random.default_rng(kernel + 10 * stride)
    b = models.Builder()
    weight = b.weight(16 * groups, 16, kernel, kernel)
    where = {"group": groups, "strides": [stride] * 2, "pads": [pad] * 4, "dilations": [dilation] * 2}
    b.node("Conv", "x", weight, outputs=["y"], **where)
    model = models.loaded(b.model({"x": ["n", 16 * groups, 6, 6]}, {"y": ["n", 16 * groups, "h", "w"]}))
    data = [{"x": rng.standard_normal((4, 16 * groups, 6, 6)).astype(np.float32) + 0.5} for _ in range(6)]
    share = None if ":" in pattern else 0.5
    context = make_context(model, data)
    made = Pipeline((Sparsify(share, pattern, method),)).run(model, context)
    before, after = (weights(m)[weight] for m in (model, made.model))
    units = parse_pattern(pattern)
    for matrix in after.reshape(groups, 16, -1):
        assert units.holds(matrix)
        assert abs(units.zero_units(matrix) - (units.share or 0.5)) <= units.span / matrix.shape[1] + 1e-9
    x = np.concatenate([d["x"] for d in data])
    dense, cut = (direct(x, w, groups, stride, pad, dilation) for w in (before, after))
    bias = next((a for a in weights(made.model).values() if a.ndim == 1), 0.0)
    assert bias == 0.0  # there is none to move
    (layer,) = made.entry["passes"][-1]["layers"]
    expected = np.square(dense - cut).mean((0, 2, 3)).sum() / dense.var((0, 2, 3)).sum()
    assert layer["error"] == pytest.approx(expected, rel=0.02)
    run = context.session(made.model).run({"x": x})["y"]
    assert np.allclose(run, cut, atol=1e-4)


@pytest.mark.parametrize("kind", FLAT)
def test_importance_sees_the_layer_s_own_features(kind: str) -> None:
    """The norms of features are those of the data, whichever operand the weight is."""
    model, data = flat(kind, 24, 30, 7)
    context = make_context(model, data)
    (consumer,) = find_layers(analyse(model, context.observation(model)), "*", ()).chosen
    rows = measure(consumer, Stream(model.copy(), context, data), parse_pattern("unstructured"), 1 << 20, 0)
    x = np.concatenate(
        [d["x"].swapaxes(-1, -2).reshape(-1, 30) if kind == "columns" else d["x"] for d in data]
    )
    assert np.allclose(rows.whole[0].matrix, x.T.astype(np.float64) @ x / len(x), rtol=1e-3, atol=1e-3)
    assert next(look(model, [consumer], context))[1]().shape == (24, 30)


@pytest.mark.parametrize("op", ["DequantizeLinear", "MatMulInteger"])
def test_quantised_weights_stay_and_say_why(op: str) -> None:
    b = models.Builder()
    rounded = b.value(np.random.default_rng(0).integers(-90, 90, (128, 128)), np.int8)
    x = b.node("MatMul", "x", b.weight(128, 128, name="plain"))
    if op == "MatMulInteger":
        x = b.node(
            "Cast",
            b.node(op, b.node("Cast", x, to=onnx.TensorProto.INT8), rounded),
            to=onnx.TensorProto.FLOAT,
        )
    else:
        x = b.node("MatMul", x, b.node(op, rounded, b.value(0.01, np.float32), b.value(0, np.int8)))
    b.node("Identity", x, outputs=["y"])
    model = models.loaded(b.model({"x": ["n", 128]}, {"y": ["n", 128]}))
    before = weights(model)[rounded]
    result = po.prune(model, sparsity=0.5, timed=False)
    assert [each["name"] for each in entry(result)["layers"]] == ["plain"]
    (left,) = entry(result)["left"]
    assert left["name"] == rounded
    assert "int8" in left["why"]
    assert "then quantise" in left["why"]
    assert np.array_equal(weights(result.model)[rounded], before)


def test_a_model_of_quantised_weights_alone_is_an_error() -> None:
    b = models.Builder()
    rounded = b.value(np.full((128, 128), 3), np.int8)
    b.node("MatMul", "x", b.node("DequantizeLinear", rounded, b.value(0.01, np.float32)), outputs=["y"])
    with pytest.raises(PruneoptError, match="then quantise"):
        po.prune(models.loaded(b.model({"x": ["n", 128]}, {"y": ["n", 128]})), sparsity=0.5, timed=False)


@pytest.mark.parametrize("pattern", ["unstructured", "16x1", "2:4", "1x16"])
@pytest.mark.parametrize("method", ["wanda", "admm"])
def test_a_wide_layer_is_taken_in_pieces(pattern: str, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Less memory, about the same zeros: features of different pieces do not make up for each other."""
    model, data = flat("gemm_t", 32, 96, 3)
    share = None if ":" in pattern else 0.5
    cut = Sparsify(share, pattern, method)
    whole = Pipeline((cut,)).run(model, make_context(model, data))
    monkeypatch.setattr(features, "WIDEST", 40)  # three pieces of 32
    made = Pipeline((cut,)).run(model, make_context(model, data))
    before, after, best = (matrix_of("gemm_t", m) for m in (model, made.model, whole.model))
    units = parse_pattern(pattern)
    assert units.holds(after)
    assert abs(units.zero_units(after) - 0.5) <= units.span / 32 + 1e-9
    assert not np.array_equal(after, best) or pattern == "2:4"
    z = np.concatenate([d["x"] for d in data]).astype(np.float64)
    z -= z.mean(0)
    lost, least, all_ = (np.square(z @ (before - w).T).sum() for w in (after, best, 0 * before))
    assert lost < 0.5 * all_
    assert least < 1.05 * lost
    (consumer,) = find_layers(analyse(model, make_context(model).observation(model)), "*", ()).chosen
    assert features.pieces(consumer, units) == 3


def test_pieces_are_whole_units() -> None:
    stack = np.arange(24.0).reshape(1, 2, 12)
    cut = features.in_pieces(stack, 3)
    assert cut.shape == (3, 2, 4)
    assert cut[1].tolist() == [[4, 5, 6, 7], [16, 17, 18, 19]]
    assert np.array_equal(features.joined(cut, 1), stack)
