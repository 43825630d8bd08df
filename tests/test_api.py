"""Whole models through the public interface."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import pruneopt as po
from pruneopt.passes.proof import comparison_points
from tests import models

NETS: list[Callable[[], onnx.ModelProto]] = [
    models.convnet,
    models.transformer,
    models.group_norm_net,
    models.tied_language_model,
]


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("macs", [0.5, 0.8])
def test_a_budget_is_met_and_used(net: Callable[[], onnx.ModelProto], macs: float) -> None:
    report = po.prune(models.loaded(net()), macs=macs, timed=False).report
    share = report["output"]["macs"] / report["input"]["macs"]
    assert macs - 0.06 < share <= macs
    assert report["equivalence"]["max_rel_error"] < 1e-5


@pytest.mark.parametrize("net", NETS)
def test_norms_are_pruned_when_asked(net: Callable[[], onnx.ModelProto]) -> None:
    report = po.prune(models.loaded(net()), passes="width{ratio=0.5,coupled=true}", timed=False).report
    assert report["output"]["params"] / report["input"]["params"] < 0.6
    assert report["equivalence"]["max_rel_error"] < 1e-5


@pytest.mark.parametrize("net", NETS)
def test_the_file_runs_at_other_sizes_and_keeps_its_signature(
    net: Callable[[], onnx.ModelProto], tmp_path: Path
) -> None:
    source, out = models.save(net(), tmp_path), tmp_path / "out.onnx"
    po.prune(po.load(source), passes="width{ratio=0.5,coupled=true}", timed=False).model.save(out)
    before, after = onnx.load(source), onnx.load(out)
    onnx.checker.check_model(after, full_check=True)
    assert list(before.graph.input) == list(after.graph.input)
    assert list(before.graph.output) == list(after.graph.output)
    session = ort.InferenceSession(out)
    for batch, length in ((1, 1), (5, 9)):
        session.run(None, {i.name: _feed(i, batch, length) for i in session.get_inputs()})


def _feed(tensor: ort.NodeArg, batch: int, length: int) -> np.ndarray:
    shape = [{"n": batch, "s": length}.get(d, d) for d in tensor.shape]
    if "int" in tensor.type:
        return np.ones(shape, np.int64)
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_a_tied_table_stays_one_table(tmp_path: Path) -> None:
    result = po.prune(models.loaded(models.tied_language_model()), passes="width{ratio=0.5}", timed=False)
    tables = [w for w in result.model.proto().graph.initializer if w.name.startswith("table")]
    assert [list(t.dims) for t in tables] == [[50, 16]]


def test_the_softmax_scale_stays_that_of_the_full_head(tmp_path: Path) -> None:
    """The scale is computed from the head's size at run time: it must not follow the pruned head."""
    result = po.prune(models.loaded(models.transformer()), passes="width{ratio=0.5,only=w*}", timed=False)
    scales = [
        c
        for c in result.model.proto().graph.initializer
        if not c.dims and c.data_type == onnx.TensorProto.FLOAT
    ]
    assert scales, "the scale is a constant now"
    assert all(onnx.numpy_helper.to_array(s) == 4.0 for s in scales)  # sqrt(64 / 4 heads)


def test_no_budget_keeps_outputs_within_the_tolerance() -> None:
    proto = models.convnet()
    dead = onnx.numpy_helper.to_array(proto.graph.initializer[1]).copy()
    dead[:24] = 0  # half of the inner channels do nothing
    proto.graph.initializer[1].CopyFrom(onnx.numpy_helper.from_array(dead, proto.graph.initializer[1].name))
    report = po.prune(models.loaded(proto), timed=False).report
    assert report["output"]["macs"] <= report["input"]["macs"]
    assert all(f["rel_l2"] <= 0.01 for f in report["fidelity"].values())


def test_two_runs_give_the_same_file(tmp_path: Path) -> None:
    files = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    for file in files:
        po.prune(models.loaded(models.transformer()), macs=0.5, timed=False).model.save(file)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_the_input_model_stays_as_it_is() -> None:
    model = models.loaded(models.transformer())
    before = model.proto().SerializeToString()
    po.prune(model, macs=0.5, timed=False)
    assert model.proto().SerializeToString() == before


def test_keep_freezes_what_it_names() -> None:
    model = models.loaded(models.transformer())
    result = po.prune(model, passes="width{ratio=0.5}", keep=["w*"], timed=False)
    assert result.report["groups"] == []


def test_inspect_names_groups_and_reasons() -> None:
    found = po.inspect(models.loaded(models.transformer(layers=1)))
    assert {g.size for g in found.groups} >= {4, 16, 64, 256}
    assert any(g.coupled for g in found.groups)
    assert found.prunable_share() > 0.95
    assert any("input 'x'" in entry["reason"] for entry in found.frozen())


def test_compare_measures_two_models() -> None:
    model = models.loaded(models.convnet())
    small = po.prune(model, macs=0.5, timed=False).model
    report = po.compare(model, small)
    assert report["latency_ratio"] > 0
    assert report["fidelity"]["y"]["rel_l2"] > 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"macs": 0.5, "passes": "width{ratio=0.5}"}, "not several"),
        ({"passes": "width{ratio=1.5}"}, "not in (0, 1]"),
        ({"passes": "width"}, "how much"),
        ({"passes": "nosuch"}, "no pass 'nosuch'"),
        ({"tolerance": 2.0}, "tolerance"),
        ({"passes": "width{ratio=0.5,criterion=nosuch}"}, "no criterion"),
    ],
)
def test_senseless_options_are_usage_errors(options: dict[str, object], words: str) -> None:
    with pytest.raises(po.UsageError, match=words.replace("(", r"\(")):
        po.prune(models.loaded(models.convnet()), **options)  # type: ignore[arg-type]


def test_an_unsatisfiable_budget_says_what_is_least_and_what_is_frozen() -> None:
    with pytest.raises(po.PruneoptError, match="cannot go below") as error:
        po.prune(models.loaded(models.convnet()), macs=0.001)
    assert 0.001 < error.value.details["least"]["macs"] < 0.2  # type: ignore[index]
    assert error.value.details["frozen"]


def test_a_length_that_strides_hide_stays_dynamic() -> None:
    """One frame at 512 and at 640 samples: two sizes would say that their number is fixed."""
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> audio (float[n,time] x) => (float[n,frames,8] y) {
            one = Constant <value = int64[1] {1}> ()
            wide = Unsqueeze(x, one)
            heard = Conv <kernel_shape=[400], strides=[320]> (wide, w1)
            frames = Transpose <perm=[0,2,1]> (heard)
            shape = Shape(frames)
            flat = Reshape(frames, shape)
            hidden = MatMul(flat, w2)
            act = Relu(hidden)
            y = MatMul(act, w3)
        }"""
    )
    rng = np.random.default_rng(0)
    for name, shape in (("w1", (16, 1, 400)), ("w2", (16, 64)), ("w3", (64, 8))):
        weight = rng.standard_normal(shape).astype(np.float32) / 10
        proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, name))
    result = po.prune(models.loaded(proto), macs=0.6)
    session = ort.InferenceSession(result.model.proto().SerializeToString())
    (found,) = session.run(None, {"x": np.zeros((2, 9000), np.float32)})
    assert found.shape == (2, 27, 8)


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_a_written_out_rms_norm_keeps_its_divisor_in_any_precision(kind: type) -> None:
    """Half a gain times sqrt(d/k) would be rounded to three digits: more than the proof allows."""
    name = "float16" if kind is np.float16 else "float"
    proto = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]> norm ({name}[n,16] x) => ({name}[n,16] y) {{
            h = MatMul(x, w1)
            square = Mul(h, h)
            mean = ReduceMean <axes=[1], keepdims=1> (square)
            sum = Add(mean, epsilon)
            root = Sqrt(sum)
            inverse = Reciprocal(root)
            scaled = Mul(h, inverse)
            normed = Mul(scaled, gain)
            y = MatMul(normed, w2)
        }}"""
    )
    rng = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {"w1": (16, 40), "w2": (40, 16), "gain": (40,), "epsilon": ()}
    for weight, shape in shapes.items():
        value = np.abs(rng.standard_normal(shape)).astype(kind) / kind(8)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), weight))
    result = po.prune(models.loaded(proto), passes="width{ratio=0.6, coupled=true}", timed=False)
    assert result.report["groups"][0]["kept"] == 24
    assert result.report["equivalence"]["max_rel_error"] < 1e-5


SEQUENCE = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 8] x) => (seq(float[M]) y) {
    h = MatMul (x, w) r = Relu (h) z = MatMul (r, v) p = Softmax <axis = -1> (z)
    y = SplitToSequence <axis = 0, keepdims = 0> (p) }"""


def test_an_output_that_is_no_tensor_is_proved_by_what_it_is_made_of() -> None:
    """As classifiers of other libraries return them: one map or list per row."""
    proto = onnx.parser.parse_model(SEQUENCE)
    rng = np.random.default_rng(0)
    for name, shape in (("w", (8, 16)), ("v", (16, 4))):
        array = rng.standard_normal(shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    result = po.prune(models.loaded(proto), passes="width{ratio=0.5}", timed=False)
    assert result.report["equivalence"]["atoms_checked"] == 1
    assert result.report["output"]["params"] == result.report["input"]["params"] // 2
    assert comparison_points(result.model.graph) == ["z"]
