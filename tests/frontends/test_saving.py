"""Weights beside the model: mapped on the way in, streamed on the way out, whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from pruneopt.errors import PruneoptError, TooLargeError
from pruneopt.frontends import onnx as frontend
from pruneopt.frontends import saving
from pruneopt.model import Model, constants, values
from tests.frontends.round_trip import assert_same

SIZE = 64


def proto_of(count: int = 3) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.standard_normal((SIZE, SIZE), np.float32), f"w{i}") for i in range(count)
    ]
    nodes = [helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(count)]
    first, last = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", SIZE]) for name in ("x0", f"x{count}")
    )
    graph = helper.make_graph(nodes, "g", [first], [last], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    """A model with external data."""
    path = tmp_path / "in" / "m.onnx"
    path.parent.mkdir()
    onnx.save_model(proto_of(), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    return path


def run(path: Path) -> bytes:
    (result,) = ort.InferenceSession(path).run(None, {"x0": np.ones((1, SIZE), np.float32)})
    return bytes(np.asarray(result).tobytes())


def test_external_data_is_mapped_and_written_beside_the_output(beside: Path, tmp_path: Path) -> None:
    model = Model.load(beside)
    assert {path.name for path in model.sources} == {"w.bin"}
    assert not values(constants(model.graph)[0]).flags.owndata
    out = tmp_path / "out.onnx"
    model.copy().save(out)
    assert sorted(os.listdir(tmp_path)) == ["in", "out.onnx", "out.onnx.data"]
    assert_same(proto_of(), onnx.load(out))
    assert run(out) == run(beside)
    onnx.checker.check_model(out)
    assert not any(t.HasField("raw_data") for t in onnx.load(out, load_external_data=False).graph.initializer)


def test_edited_external_weights(beside: Path, tmp_path: Path) -> None:
    model = Model.load(beside)
    weight = constants(model.graph)[1]
    weight.values = values(weight) * np.float32(2)
    model.save(tmp_path / "out.onnx")
    written = {t.name: numpy_helper.to_array(t) for t in onnx.load(tmp_path / "out.onnx").graph.initializer}
    original = {t.name: numpy_helper.to_array(t) for t in proto_of().graph.initializer}
    assert np.array_equal(written["w1"], original["w1"] * 2)
    assert np.array_equal(written["w2"], original["w2"])


def test_weights_go_beside_the_model_when_they_are_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "INLINE_LIMIT", 1000)
    monkeypatch.setattr(frontend, "PROTO_LIMIT", 1000)
    model = Model.from_proto(proto_of())
    model.save(tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx.data").exists()
    assert_same(proto_of(), onnx.load(tmp_path / "out.onnx"))
    with pytest.raises(TooLargeError, match="save the model to a temporary file"):
        model.proto()


def test_a_large_single_file_is_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frontend, "MAP_FROM", 0)
    path = tmp_path / "m.onnx"
    path.write_bytes(proto_of().SerializeToString())
    model = Model.load(path)
    assert not model.sources
    assert_same(proto_of(), model.proto())
    model.save(tmp_path / "out.onnx")
    assert sorted(os.listdir(tmp_path)) == ["m.onnx", "out.onnx"]
    assert_same(proto_of(), onnx.load(tmp_path / "out.onnx"))


def test_data_that_changed_since_is_not_used(beside: Path, tmp_path: Path) -> None:
    model = Model.load(beside)
    data = beside.with_name("w.bin")
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(PruneoptError, match="has changed or gone"):
        values(constants(model.graph)[0])
    data.unlink()
    with pytest.raises(PruneoptError, match="has changed or gone"):
        model.save(tmp_path / "out.onnx")
    assert os.listdir(tmp_path) == ["in"]


def test_many_data_files_do_not_use_up_file_handles(tmp_path: Path) -> None:
    onnx.save_model(
        proto_of(20), tmp_path / "m.onnx", save_as_external_data=True, all_tensors_to_one_file=False,
        size_threshold=0,
    )  # fmt: skip
    model = Model.load(tmp_path / "m.onnx")
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    total = sum(float(values(c).sum()) for c in constants(model.graph))
    assert np.isfinite(total)
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before + 1


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("location", "../w.bin", "outside the model's folder"),
        ("location", "/etc/passwd", "outside the model's folder"),
        ("location", "link.bin", "outside the model's folder"),
        ("location", "", "outside the model's folder"),
        ("location", "no.bin", "does not exist"),
        ("location", ".", "does not exist"),
        ("offset", "999999", "the file is cut short"),
        ("offset", "-4", "which is no number"),
        ("length", "12", "has 12 bytes in"),
    ],
)
def test_bad_external_data(beside: Path, key: str, value: str, reason: str) -> None:
    (beside.parent.parent / "w.bin").write_bytes(bytes(1 << 20))
    beside.with_name("link.bin").symlink_to(beside.parent.parent / "w.bin")
    proto = onnx.load(beside, load_external_data=False)
    for entry in proto.graph.initializer[1].external_data:
        if entry.key == key:
            entry.value = value
    beside.write_bytes(proto.SerializeToString())
    with pytest.raises(PruneoptError, match=reason) as caught:
        Model.load(beside)
    assert "'w1'" in str(caught.value)


def test_the_source_is_never_overwritten(beside: Path, tmp_path: Path) -> None:
    model = Model.load(beside)
    content = beside.read_bytes()
    (tmp_path / "hard.onnx").hardlink_to(beside)
    (tmp_path / "soft.onnx").symlink_to(beside)
    (tmp_path / "x.onnx.data").hardlink_to(beside.with_name("w.bin"))
    for target in (
        beside,
        beside.with_name("w.bin"),
        *(tmp_path / n for n in ("hard.onnx", "soft.onnx", "x.onnx")),
    ):
        with pytest.raises(PruneoptError, match="belongs to the model being read"):
            model.copy().save(target)
    assert beside.read_bytes() == content


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    model = Model.from_proto(proto_of())
    with pytest.raises(PruneoptError, match="is not a regular file"):
        model.save(tmp_path)
    with pytest.raises(PruneoptError, match=r"the folder .* does not exist"):
        model.save(tmp_path / "no" / "out.onnx")
    with pytest.raises(PruneoptError, match="is not a regular file"):
        model.save("/dev/null")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_write_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(PruneoptError, match="cannot be written: Permission denied"):
        Model.from_proto(proto_of()).save(tmp_path / "out.onnx")


@pytest.mark.parametrize("external", [True, False])
@pytest.mark.parametrize("existing", [True, False])
@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("call", [0, 1])
def test_a_failed_save_leaves_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    external: bool,
    existing: bool,
    failure: BaseException,
    call: int,
) -> None:
    if external:
        monkeypatch.setattr(saving, "INLINE_LIMIT", 0)
    out = tmp_path / "out.onnx"
    if existing:
        out.write_bytes(b"before")
    calls = iter(range(9))
    replace = os.replace

    def fail(*arguments: str) -> None:
        if next(calls) == (call if external else 0):
            raise failure
        replace(*arguments)

    monkeypatch.setattr(os, "replace", fail)
    expected = PruneoptError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        Model.from_proto(proto_of()).save(out)
    assert os.listdir(tmp_path) == (["out.onnx"] if existing else [])
    assert not existing or out.read_bytes() == b"before"


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    out = tmp_path / "out.onnx"
    Model.from_proto(proto_of()).save(out)
    assert out.stat().st_mode == (tmp_path / "plain").stat().st_mode
    out.chmod(0o640)
    Model.from_proto(proto_of()).save(out)
    assert out.stat().st_mode & 0o777 == 0o640
