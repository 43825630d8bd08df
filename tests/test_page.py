"""The report as a page: complete, self-contained, and clear about what is missing."""

from __future__ import annotations

import builtins
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pruneopt import api
from pruneopt.cli import main
from pruneopt.errors import PruneoptError
from pruneopt.page import bars, change, need_jinja, number, render
from pruneopt.page_curves import CHART, MOST_CURVES, solution_path, trade_off
from pruneopt.report import Report
from tests import models

REPORT: Report = {
    "name": "<net>.onnx",
    "input": {"macs": 1000, "params": 10, "bytes": 40, "nodes": 3, "latency_ms": 2.0, "activation_bytes": 80},
    "output": {"macs": 600, "params": 5, "bytes": 20, "nodes": 3, "latency_ms": 1.3, "activation_bytes": 60},
    "latency_ratio": 0.61,
    "latency_spread": 0.02,
    "measured_at": {"x": [1, 3, 8, 8]},
    "equivalence": {"max_rel_error": 2e-7, "atoms_checked": 2},
    "fidelity": {"y": {"rel_l2": 0.02, "cosine": 0.999, "argmax_agreement": 1.0}},
    "calibrated": True,
    "groups": [{"name": "w:0", "size": 16, "kept": 4, "coupled": "", "tensors": ["w:0", "v:1"]}],
    "curves": [{"name": "w:0", "sizes": [16, 8, 4], "damage": [0.0, 0.1, 0.4]}],
    "trade_off": [{"macs": 1.0, "damage": 0.0}, {"macs": 0.5, "damage": 0.2}, {"macs": 0.2, "damage": 0.9}],
    "frozen": [{"why": "output 'y' of the model", "node": "Conv 'c'", "size": "10", "tensors": ["w:0"] * 5}],
    "passes": [
        {"pass": "width", "options": {"latency": 0.6}, "latency": [{"planned": 0.6, "measured": 0.61}]}
    ],
    "seconds": 1.0,
}


def page(**changes: Any) -> str:
    pytest.importorskip("jinja2")
    return render({**REPORT, **changes})


def test_everything_known_is_on_the_page() -> None:
    text = page()
    for expected in (
        "61 %",
        "40 % less",
        "1 \u00d7 3 \u00d7 8 \u00d7 8",
        "2.0e-07",
        "0.9990",
        "w:0: 4 of 16",
        "4 of 16",
    ):
        assert expected in text
    for expected in ("output &#39;y&#39; of the model", "and 2 more", "latency=0.6", "60.0 % → 61.0 %"):
        assert expected in text


def test_nothing_comes_from_elsewhere_and_names_are_escaped() -> None:
    text = page()
    assert not re.search(r"(?:src|href)\s*=|url\(|@import|<script", text)
    assert "&lt;net&gt;.onnx" in text
    assert "<net>" not in text


def test_it_reads_in_the_dark_and_on_a_phone() -> None:
    text = page()
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport" content="width=device-width' in text


@pytest.mark.parametrize("missing", ["curves", "trade_off", "frozen", "groups", "fidelity", "latency_ratio"])
def test_what_is_not_known_is_not_shown(missing: str) -> None:
    pytest.importorskip("jinja2")
    text = render({k: v for k, v in REPORT.items() if k != missing})
    heading = {"curves": "Sensitivity", "trade_off": "more or less would cost", "frozen": "What stayed"}
    assert heading.get(missing, "nothing of the kind") not in text


def test_synthetic_inputs_are_said_loudly() -> None:
    assert "not real data" in page(calibrated=False)
    assert "not real data" not in page()


def test_a_kept_input_is_said() -> None:
    assert "The smaller model takes 1.10 times as long" in page(
        kept_input="the smaller model takes 1.10 times as long, so the input was kept"
    )


def test_bars_are_as_high_as_the_widths_are() -> None:
    wide, narrow = bars([{"name": "a", "size": 64, "kept": 16}, {"name": "b", "size": 16, "kept": 16}])
    assert wide.after == pytest.approx(wide.before / 2)  # square roots
    assert narrow.before == narrow.after == wide.after


def test_the_dot_is_where_the_model_is() -> None:
    (curve,) = trade_off(REPORT)
    assert curve.at is not None
    assert curve.at[0] == pytest.approx(0.6 * 420)
    assert curve.at[1] == pytest.approx(170 * (1 - 0.16 / 0.9), abs=0.1)  # between the points at 0.5 and 1


def test_words() -> None:
    assert [change(r) for r in (0.5, 1.0, 1.2)] == ["50 % less", "unchanged", "20 % more"]
    assert [number(1234, "B"), number(2.5e9), number(1500.0, "ms")] == ["1.23 kB", "2.5 G", "1500 ms"]
    assert MOST_CURVES >= 12


def test_without_jinja_there_is_one_clear_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    found = builtins.__import__

    def refuse(name: str, *rest: Any, **more: Any) -> Any:
        if name == "jinja2":
            raise ImportError(name)
        return found(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(PruneoptError, match=r"pip install 'pruneopt\[report\]'"):
        need_jinja()


def test_the_command_writes_it(tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    source, target = models.save(models.convnet(), tmp_path), tmp_path / "out.html"
    data = np.random.default_rng(0).standard_normal((16, 3, 16, 16), dtype=np.float32)
    np.savez(tmp_path / "data.npz", x=data)
    options = ["--macs", "0.6", "--calib", str(tmp_path / "data.npz"), "--report", str(target), "-q"]
    assert main([str(source), "-o", str(tmp_path / "small.onnx"), *options]) == 0
    text = target.read_text(encoding="utf-8")
    for heading in ("Before and after", "Widths", "Sensitivity", "more or less would cost", "What stayed"):
        assert heading in text


def test_the_report_has_activation_memory_and_curves() -> None:
    model = models.loaded(models.convnet())
    report = api.prune(model, macs=0.5, timed=False).report
    assert 0 < report["output"]["activation_bytes"] < report["input"]["activation_bytes"]
    assert report["frozen"]
    assert "curves" not in report  # nothing was measured without data


def test_the_path_of_a_search_is_drawn() -> None:
    path = {"entries": 20, "in": [0, 4, 10, 20], "groups": [{"name": "w:0", "size": 16, "in": [0, 4, 8, 16]}]}
    told = [{"pass": "learn", "options": {}, "path": path}]
    whole, group = solution_path({**REPORT, "passes": told})  # 4 of 16 stay
    assert whole.path.split() == [f"0.0,{CHART[1]}.0", "140.0,136.0", "280.0,85.0", "420.0,0.0"]
    assert whole.at == (140.0, 136.0)
    assert group.note == "4 of 16 stay"
    assert group.at == (140.0, 127.5)
    text = page(passes=told)
    assert "The path of the search" in text
    assert "The path of the search" not in page()


def test_blocks_that_went_draw_a_curve_of_measured_damage() -> None:
    steps = [{"block": "layer2", "macs": 0.8, "damage": 0.1}, {"block": "layer1", "macs": 0.6, "damage": 0.3}]
    (drawn,) = trade_off({"passes": [{"pass": "depth", "curve": steps}]})
    assert (drawn.title, drawn.note) == ("Multiply-accumulates kept, block by block", "measured damage")
    assert len(drawn.path.split()) == 3
    assert drawn.at == (0.6 * CHART[0], 0.0)
