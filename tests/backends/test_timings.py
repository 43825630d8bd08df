"""The latency table outlives a run, and is never a reason for one to fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from pruneopt.backends.ort import OnnxRuntime
from pruneopt.backends.timings import Timings, machine
from pruneopt.cache import cache_folder
from pruneopt.passes.planning.sites import Numbering
from tests import models


def test_measurements_are_kept(tmp_path: Path) -> None:
    place = tmp_path / "deep" / "latency.sqlite"
    Timings(1, place).put({"Conv a": 1.5, "Conv b": 2.0})
    assert Timings(1, place).get(["Conv a", "Conv c"]) == {"Conv a": 1.5}
    assert Timings(2, place).get(["Conv a"]) == {}  # other threads, other times


def test_many_names_at_once(tmp_path: Path) -> None:
    table = Timings(1, tmp_path / "latency.sqlite")
    table.put({f"k{i}": float(i) for i in range(1700)})
    assert len(Timings(1, tmp_path / "latency.sqlite").get([f"k{i}" for i in range(2000)])) == 1700


@pytest.mark.parametrize("broken", ["folder", "rubbish"])
def test_a_file_that_cannot_be_used_is_done_without(tmp_path: Path, broken: str) -> None:
    place = tmp_path / "latency.sqlite"
    place.mkdir() if broken == "folder" else place.write_bytes(b"no database" * 100)
    table = Timings(1, place)
    table.put({"a": 1.0})
    assert table.get(["a", "b"]) == {"a": 1.0}


def test_the_folder_is_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PRUNEOPT_CACHE", raising=False)
    for system, variable, expected in (
        ("linux", "XDG_CACHE_HOME", tmp_path / "pruneopt"),
        ("win32", "LOCALAPPDATA", tmp_path / "pruneopt"),
    ):
        monkeypatch.setattr("sys.platform", system)
        monkeypatch.setenv(variable, str(tmp_path))
        assert cache_folder() == expected
    monkeypatch.setattr("sys.platform", "darwin")
    assert cache_folder().parts[-3:] == ("Library", "Caches", "pruneopt")
    monkeypatch.setenv("PRUNEOPT_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


def test_the_machine_says_its_runtime() -> None:
    assert "onnxruntime" in machine()


def test_kernels_are_found_by_the_nodes_they_were_made_from() -> None:
    model = models.loaded(models.convnet())
    number = Numbering(model)
    feeds = {"x": __import__("numpy").ones((2, 3, 16, 16), "float32")}
    found = OnnxRuntime().kernels(number.marked(model), feeds, seconds=0.02)
    assert 0 < found.own <= 1
    assert found.whole > 0
    nodes = {number.of(name) for name, _ in found.times} - {None}
    heavy = {i for i, node in enumerate(model.graph.nodes) if node.op in ("Gemm", "GlobalAveragePool")}
    assert heavy <= nodes
    assert sum(ms for name, ms in found.times if number.of(name) is not None) > 0
