"""Zeros from the command line: alone, after width, with data from files and functions, and in the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pruneopt as po
from pruneopt.cli import main
from pruneopt.passes.sparsity.patterns import parse_pattern
from tests import models
from tests.sparsity.test_sparsify import data, weights


@pytest.fixture
def net(tmp_path: Path) -> Path:
    models.loaded(models.transformer(layers=1)).save(tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def calibration(folder: Path, name: str) -> str:
    """The same batches as a file, a folder, and a function."""
    model = models.loaded(models.transformer(layers=1))
    batches = data(model, 8)
    if name == "file":
        np.savez(folder / "all.npz", **{k: np.stack([b[k] for b in batches]) for k in batches[0]})  # type: ignore[arg-type]
        return str(folder / "all.npz")
    if name == "folder":
        (folder / "data").mkdir()
        for i, batch in enumerate(batches):
            np.savez(folder / "data" / f"{i}.npz", **batch)  # type: ignore[arg-type]
        return str(folder / "data")
    np.savez(folder / "kept.npz", **{f"{i}_{k}": v for i, b in enumerate(batches) for k, v in b.items()})  # type: ignore[arg-type]
    (folder / "inputs_of_mine.py").write_text(
        "import numpy as np\n"
        "def batches():\n"
        f"    with np.load({str(folder / 'kept.npz')!r}) as kept:\n"
        f"        for i in range({len(batches)}):\n"
        "            yield {k.split('_', 1)[1]: kept[k] for k in kept if k.startswith(f'{i}_')}\n"
    )
    return "inputs_of_mine:batches"


def pruned(net: Path, *options: str) -> tuple[po.Model, dict[str, Any]]:
    out = net.with_name("out.onnx")
    assert main([str(net), "-o", str(out), "-q", "--report", str(net.with_name("r.json")), *options]) == 0
    return po.load(out), json.loads(net.with_name("r.json").read_text())


@pytest.mark.parametrize("source", ["file", "folder", "function"])
def test_data_from_anywhere_gives_the_same_zeros(
    source: str, net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(net.parent)
    spec = calibration(net.parent, source)
    made, report = pruned(net, "--sparsity", "0.8", "--pattern", "16x1", "--calib", spec)
    expected = po.prune(
        po.load(net), sparsity=0.8, pattern="16x1", calib=data(po.load(net), 8), timed=False
    ).model
    for name, array in weights(made).items():
        assert np.array_equal(array, weights(expected)[name]), name
    assert report["passes"][-2]["data"]
    assert report["calibrated"]


def test_without_data_and_without_a_target(net: Path) -> None:
    """An ordinary model that any runtime opens, and the pattern in its weights."""
    made, report = pruned(net, "--sparsity", "0.8", "--pattern", "16x1")
    (entry,) = [p for p in report["passes"] if p["pass"] == "sparsify"]
    assert entry["sparsity"] == pytest.approx(0.8, abs=0.02)
    assert not (net.parent / "out.kernels.so").exists()
    assert "tune" not in report
    stored = weights(made)
    for layer in entry["layers"]:
        matrix = stored[layer["name"]].T
        assert parse_pattern("16x1").zero_units(matrix) == pytest.approx(0.8, abs=0.02)


def test_width_first_then_zeros(net: Path) -> None:
    made, report = pruned(net, "--macs", "0.6", "--sparsity", "0.5", "--pattern", "2:4")
    names = [p["pass"] for p in report["passes"]]
    assert names.index("width") < names.index("sparsify")
    assert report["output"]["macs"] <= 0.6 * report["input"]["macs"]
    (entry,) = [p for p in report["passes"] if p["pass"] == "sparsify"]
    for layer in entry["layers"]:
        assert parse_pattern("2:4").holds(weights(made)[layer["name"]].T)


def test_the_summary_says_what_was_proved_and_what_was_counted(
    net: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(net), "-o", str(net.with_name("o.onnx")), "--macs", "0.6", "--sparsity", "0.5"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "axes masked before weights were set to zero, to" in said
    assert "weights are zero, in the pattern (unstructured, ria); chosen without data" in said


def test_the_page_says_it_too(net: Path) -> None:
    pytest.importorskip("jinja2")
    page = net.with_name("r.html")
    given = ["--macs", "0.6", "--sparsity", "0.5", "-q", "--report", str(page)]
    assert main([str(net), "-o", str(net.with_name("o.onnx")), *given]) == 0
    text = page.read_text()
    assert "Proved: equal to the original with" in text
    assert "Counted: 50.0% of" in text
