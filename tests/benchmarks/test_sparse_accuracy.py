"""The table of zeros: one command, rows that are kept, and one table for each net."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import sparse_accuracy
from benchmarks.accuracy.task import Task
from tests import models


def tiny(path: Path) -> Task:
    """A convolutional net with data of its own."""
    models.loaded(models.convnet()).save(path)
    rng = np.random.default_rng(0)
    (image,) = models.loaded(models.convnet()).inputs
    size = (2, image.shape[1], 16, 16)
    batches = [{image.name: rng.standard_normal(size).astype(np.float32)} for _ in range(8)]
    held = batches[6:]
    return Task(
        "tiny", path, batches[:6], {"test": held}, lambda run: {"mean": float(run(held[0]).mean())}, "kl"
    )


def test_rows_are_kept_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    task = tiny(tmp_path / "tiny.onnx")
    monkeypatch.setattr(sparse_accuracy, "load", lambda name, cache: [task])
    monkeypatch.setattr(sparse_accuracy, "TASKS", ("tiny",))
    rows = tmp_path / "rows.json"
    given = [
        "tiny",
        "--patterns",
        "unstructured",
        "2:4",
        "--methods",
        "magnitude",
        "admm",
        "--json",
        str(rows),
    ]
    sparse_accuracy.main(given)
    kept = json.loads(rows.read_text())
    assert [row["method"] for row in kept] == ["dense", "magnitude", "admm", "magnitude", "admm"]
    assert all(row["sparsity"] == pytest.approx(0.5, abs=0.01) for row in kept[1:])
    assert kept[2]["distances"]["test"] < kept[1]["distances"]["test"]
    table = capsys.readouterr().out
    assert "| unstructured 50% |" in table
    assert "| 2:4 |" in table
    monkeypatch.setattr(sparse_accuracy, "load", lambda name, cache: pytest.fail("all is known"))
    sparse_accuracy.main(given)
    assert capsys.readouterr().out == table
