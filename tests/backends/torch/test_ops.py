"""Every op against an oracle: ONNX's own node cases, and ONNX Runtime where these say little."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

torch = pytest.importorskip("torch")

from pruneopt.backends.torch.table import known_ops  # noqa: E402
from pruneopt.frontends import onnx as frontend  # noqa: E402
from pruneopt.model import Model  # noqa: E402
from tests.backends.torch.cases import cases, passes  # noqa: E402


@pytest.fixture
def any_opset(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cases are of the newest opset; the backend does not depend on it."""
    monkeypatch.setattr(frontend, "OPSETS", range(1, 100))


@pytest.mark.usefixtures("any_opset")
def test_a_sample_of_the_node_cases() -> None:
    chosen = cases()[::7]
    assert len(chosen) > 180
    for case in chosen:
        passes(case)


@pytest.mark.slow
@pytest.mark.usefixtures("any_opset")
def test_every_node_case() -> None:
    chosen = cases()
    assert len(chosen) > 1400
    for case in chosen:
        passes(case)


def test_every_standard_op_with_a_case_is_known_or_listed() -> None:
    from tests.backends.torch.cases import UNKNOWN

    known = {name for domain, name in known_ops() if not domain}
    covered = {node.op_type for case in cases() for node in case.model.graph.node}
    assert not covered - known - {"Constant"}
    assert not known & UNKNOWN


def node_model(
    op: str, inputs: dict[str, Any], attributes: dict[str, Any], opset: int = 19
) -> onnx.ModelProto:
    """One node; inputs that are integers, or named `k...`, are constants."""
    names = [name if value is not None else "" for name, value in inputs.items()]
    fed = {n: v for n, v in inputs.items() if v is not None and n.startswith("x")}
    weights = [numpy_helper.from_array(v, n) for n, v in inputs.items() if v is not None and n not in fed]
    node = helper.make_node(op, names, ["y"], **attributes)
    ends = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
        for n, v in fed.items()
    ]
    out = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "g", ends, [out], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def as_in_runtime(proto: onnx.ModelProto, **feeds: Any) -> bool:
    """Assert that PyTorch gives what ONNX Runtime gives; False where the runtime refuses the model."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        expected = ort.InferenceSession(proto.SerializeToString(), options).run(None, feeds)[0]
    except Exception:
        return False
    module = Model.from_proto(proto).to_torch()
    found = module(*[torch.from_numpy(value) for value in feeds.values()]).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    return True


MODES = "half_pixel half_pixel_symmetric pytorch_half_pixel align_corners asymmetric".split()
ROUNDINGS = "round_prefer_floor round_prefer_ceil floor ceil".split()


@pytest.mark.parametrize("by", ["sizes", "scales"])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resize(mode: str, by: str) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 7, 8), np.float32)
    roundings = ROUNDINGS if mode == "nearest" else ["floor"]
    antialias = [0] if mode == "nearest" else [0, 1]
    count = 0
    for size, place, rounding, smooth in itertools.product(
        [(5, 13), (3, 4), (12, 9)], MODES, roundings, antialias
    ):
        scales = np.array([1, 1, size[0] / 7, size[1] / 8], np.float32) if by == "scales" else None
        sizes = np.array([2, 3, *size]) if by == "sizes" else None
        attributes = {
            "mode": mode, "coordinate_transformation_mode": place, "nearest_mode": rounding, "antialias": smooth,
        }  # fmt: skip
        inputs = {"x": x, "roi": None, "k": scales} | ({"s": sizes} if sizes is not None else {})
        count += as_in_runtime(node_model("Resize", inputs, attributes), x=x)
    assert count >= 24


windows = st.fixed_dictionaries(
    {
        "kernel_shape": st.lists(st.integers(1, 3), min_size=2, max_size=2),
        "strides": st.lists(st.integers(1, 3), min_size=2, max_size=2),
        "pads": st.lists(st.integers(0, 1), min_size=4, max_size=4),
        "ceil_mode": st.integers(0, 1),
    }
)


def pads_fit(attributes: dict[str, Any]) -> bool:
    """Runtimes refuse padding that is as large as the kernel."""
    return all(p < k for p, k in zip(attributes["pads"], attributes["kernel_shape"] * 2, strict=True))


@settings(max_examples=60)
@given(windows.filter(pads_fit), st.tuples(st.integers(3, 9), st.integers(3, 9)), st.booleans())
def test_pooling(attributes: dict[str, Any], size: tuple[int, int], counts_padding: bool) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, *size), np.float32)
    as_in_runtime(node_model("MaxPool", {"x": x}, attributes), x=x)
    padding = {"count_include_pad": int(counts_padding)}
    as_in_runtime(node_model("AveragePool", {"x": x}, attributes | padding), x=x)


@settings(max_examples=60)
@given(
    st.lists(st.integers(1, 3), min_size=6, max_size=6),
    st.lists(st.integers(0, 2), min_size=4, max_size=4),
    st.sampled_from(["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]),
    st.sampled_from([1, 2]),
)
def test_convolution(sizes: list[int], pads: list[int], auto_pad: str, group: int) -> None:
    rng = np.random.default_rng(0)
    x, k = (
        rng.standard_normal((2, 4, 8, 7), np.float32),
        rng.standard_normal((6, 4 // group, *sizes[:2]), np.float32),
    )
    attributes: dict[str, Any] = {"strides": sizes[2:4], "dilations": sizes[4:], "group": group}
    attributes |= {"pads": pads} if auto_pad == "NOTSET" else {"auto_pad": auto_pad, "dilations": [1, 1]}
    as_in_runtime(node_model("Conv", {"x": x, "k": k}, attributes), x=x)
    back = rng.standard_normal((4, 6 // group, *sizes[:2]), np.float32)
    as_in_runtime(node_model("ConvTranspose", {"x": x, "k": back}, attributes), x=x)


@settings(max_examples=40)
@given(
    st.sampled_from(["LSTM", "GRU", "RNN"]),
    st.sampled_from(["forward", "reverse", "bidirectional"]),
    st.sampled_from([0, 1]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_recurrent(op: str, direction: str, option: int, biased: bool, started: bool, ragged: bool) -> None:
    rng = np.random.default_rng(0)
    gates, many = {"LSTM": 4, "GRU": 3, "RNN": 1}[op], 2 if direction == "bidirectional" else 1
    x = rng.standard_normal((5, 3, 4), np.float32)
    inputs = {
        "x": x,
        "k": rng.standard_normal((many, gates * 6, 4), np.float32),
        "kr": rng.standard_normal((many, gates * 6, 6), np.float32),
        "kb": rng.standard_normal((many, gates * 12), np.float32) if biased else None,
        "kl": np.array([5, 2, 3], np.int32) if ragged else None,
        "kh": rng.standard_normal((many, 3, 6), np.float32) if started else None,
    }
    attributes: dict[str, Any] = {"hidden_size": 6, "direction": direction}
    attributes |= {"LSTM": {"input_forget": option}, "GRU": {"linear_before_reset": option}, "RNN": {}}[op]
    assert as_in_runtime(node_model(op, inputs, attributes), x=x)


@settings(max_examples=60)
@given(st.integers(-9, 9), st.integers(-9, 9), st.sampled_from([-3, -2, -1, 1, 2, 3]), st.integers(-2, 1))
def test_slice(start: int, end: int, step: int, axis: int) -> None:
    x = np.arange(35, dtype=np.float32).reshape(5, 7)
    settings_ = {
        name: np.array([value]) for name, value in zip("abcd", (start, end, axis, step), strict=True)
    }
    as_in_runtime(node_model("Slice", {"x": x, **settings_}, {}), x=x)


@pytest.mark.parametrize(("op", "fmod"), [("Div", None), ("Mod", 0), ("Mod", 1)])
def test_integers_divide_as_the_runtime_does(op: str, fmod: int | None) -> None:
    a = np.array([-7, -6, -1, 0, 1, 6, 7, 9], np.int64)[:, None]
    b = np.array([-3, -2, 2, 3], np.int64)[None]
    proto = node_model(op, {"x": a, "xb": b}, {} if fmod is None else {"fmod": fmod})
    proto.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    assert as_in_runtime(proto, x=a, xb=b)
