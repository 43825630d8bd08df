"""Every case of `onnx.backend.test` goes through the frontend, and runs as before."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from pruneopt.frontends import onnx as frontend
from pruneopt.model import Model
from tests.frontends.round_trip import assert_same


@pytest.fixture(scope="module")
def cases() -> list[Any]:
    from onnx.backend.test import loader

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # cases divide by zero on purpose
        kinds = ("node", "simple", "pytorch-converted", "pytorch-operator")
        return [case for kind in kinds for case in loader.load_model_tests(kind=kind)]


@pytest.fixture(autouse=True)
def any_opset(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cases are of the newest opset; the frontend itself does not depend on it."""
    monkeypatch.setattr(frontend, "OPSETS", range(1, 100))


def test_every_case_comes_back_the_same(cases: list[Any]) -> None:
    assert len(cases) > 1500
    for case in cases:
        before = proto_of(case)
        assert_same(before, Model.from_proto(before).copy().proto())


def test_a_sample_runs_the_same(cases: list[Any]) -> None:
    assert run_all(cases[::20]) > 40


@pytest.mark.slow
def test_every_case_is_saved_and_runs_the_same(cases: list[Any], tmp_path: Path) -> None:
    for case in cases:
        before = proto_of(case)
        Model.from_proto(before).save(tmp_path / "out.onnx")
        assert_same(before, onnx.load(tmp_path / "out.onnx"))
    assert run_all(cases) > 1000


def proto_of(case: Any) -> onnx.ModelProto:
    return case.model or onnx.load(Path(case.model_dir) / "model.onnx")


def run_all(cases: Iterable[Any]) -> int:
    """How many cases the runtime could run; all of them gave the same outputs before and after."""
    count = 0
    for case in cases:
        before = proto_of(case)
        expected = run(before, case)
        if expected is not None:
            actual = run(Model.from_proto(before).proto(), case)
            assert actual is not None, case.name
            assert same(expected, actual), case.name
            count += 1
    return count


def run(proto: onnx.ModelProto, case: Any) -> list[Any] | None:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if not case.data_sets:
        return None
    try:
        session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        feeds = {
            info.name: value for info, value in zip(session.get_inputs(), case.data_sets[0][0], strict=False)
        }
        return list(session.run(None, feeds))
    except Exception:  # the runtime lacks some of the newest operators and types
        return None


def same(a: Any, b: Any) -> bool:
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if a is None or b is None:
        return a is b
    a, b = np.asarray(a), np.asarray(b)
    return bool(a.tolist() == b.tolist()) if a.dtype == object else a.tobytes() == b.tobytes()
