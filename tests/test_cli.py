"""The command line: exit codes, one clear sentence, nothing half written."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from pruneopt.cli import main
from tests import models


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return models.save(models.convnet(), tmp_path)


def test_prune_writes_the_model_the_table_and_the_json(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, report = tmp_path / "out.onnx", tmp_path / "report.json"
    assert main([str(source), "-o", str(out), "--macs", "0.5", "--json", "--report", str(report)]) == 0
    printed = capsys.readouterr()
    figures = json.loads(printed.out)
    assert set(figures) >= {"input", "output", "fidelity", "equivalence", "passes", "groups", "seconds"}
    assert set(figures["input"]) == {"params", "macs", "bytes", "activation_bytes", "nodes", "latency_ms"}
    assert json.loads(report.read_text()) == figures
    assert "MACs" in printed.err
    assert onnx.load(out).graph.node


def test_quiet_prints_nothing(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(source), "-o", str(tmp_path / "out.onnx"), "--macs", "0.5", "-q"]) == 0
    assert capsys.readouterr() == ("", "")


def test_inspect_and_explain(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(source)]) == 0
    assert "can shrink" in capsys.readouterr().out
    assert main(["inspect", str(source), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["groups"]
    assert main(["inspect", str(source), "--explain", "w0:0"]) == 0
    assert "w0:0 = 32" in capsys.readouterr().out


def test_compare(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(source), str(source), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fidelity"]["y"]["rel_l2"] < 1e-6


BAD = {
    "no such file": (["nosuch.onnx", "-o", "out.onnx", "--macs", "0.5"], 1, "does not exist"),
    "a folder": ([".", "-o", "out.onnx", "--macs", "0.5"], 1, "folder"),
    "text": (["text.onnx", "-o", "out.onnx", "--macs", "0.5"], 1, "not an ONNX model"),
    "cut short": (["short.onnx", "-o", "out.onnx", "--macs", "0.5"], 1, "cut short"),
    "no external data": (["external.onnx", "-o", "out.onnx", "--macs", "0.5"], 1, "weights.bin"),
    "data outside": (["outside.onnx", "-o", "out.onnx", "--macs", "0.5"], 1, "outside"),
    "no such output folder": (["model.onnx", "-o", "no/out.onnx", "--macs", "0.5"], 1, "does not exist"),
    "output is input": (["model.onnx", "-o", "model.onnx", "--macs", "0.5"], 1, "choose another output"),
    "output is a folder": (["model.onnx", "-o", ".", "--macs", "0.5"], 1, "choose another output"),
    "share above one": (["model.onnx", "-o", "out.onnx", "--macs", "1.5"], 2, "not in (0, 1]"),
    "share of nothing": (["model.onnx", "-o", "out.onnx", "--params", "0"], 2, "not in (0, 1]"),
    "not a number": (["model.onnx", "-o", "out.onnx", "--macs", "half"], 2, "not a number"),
    "too small a budget": (["model.onnx", "-o", "out.onnx", "--macs", "0.0001"], 1, "cannot go below"),
    "unknown pass": (["model.onnx", "-o", "out.onnx", "--passes", "wdith{ratio=0.5}"], 2, "no pass 'wdith'"),
    "unknown option of a pass": (
        ["model.onnx", "-o", "out.onnx", "--passes", "width{rato=0.5}"],
        2,
        "no option",
    ),
    "unreadable passes": (["model.onnx", "-o", "out.onnx", "--passes", "width{"], 2, "cannot read passes"),
    "unknown option": (["model.onnx", "-o", "out.onnx", "--nosuch"], 2, "--nosuch"),
    "no output": (["model.onnx", "--macs", "0.5"], 2, "--output"),
    "no calibration file": (["model.onnx", "-o", "out.onnx", "--calib", "no.npz"], 1, "does not exist"),
    "report of no known kind": (["model.onnx", "-o", "out.onnx", "--report", "r.txt"], 2, ".json"),
    "no such tensor": (["inspect", "model.onnx", "--explain", "nosuch:0"], 2, "no tensor 'nosuch'"),
    "no such axis": (["inspect", "model.onnx", "--explain", "w0:9"], 2, "dimensions 0 to 3"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_sentence(
    case: str,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments, code, words = BAD[case]
    _bad_files(source, tmp_path)
    monkeypatch.chdir(tmp_path)
    before = sorted(p.name for p in tmp_path.iterdir())
    assert main(arguments) == code
    printed = capsys.readouterr()
    assert words in printed.err
    assert len(printed.err.strip().splitlines()) == 1
    assert printed.out == ""
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def _bad_files(source: Path, folder: Path) -> None:
    (folder / "text.onnx").write_text("this is no model\n")
    (folder / "short.onnx").write_bytes(source.read_bytes()[:-1000])
    for name, location in (("external.onnx", "weights.bin"), ("outside.onnx", "../weights.bin")):
        proto = onnx.load(source)
        tensor = proto.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
        (folder / name).write_bytes(proto.SerializeToString())
