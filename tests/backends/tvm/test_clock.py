"""Times of sparse kernels and of whole models with them, for passes that plan zeros."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tvm", reason="sparse kernels are compiled by TVM")

from pruneopt.api import make_context
from pruneopt.backends.ort import OnnxRuntime
from pruneopt.backends.tvm import clock
from pruneopt.backends.tvm.clock import Clock
from pruneopt.errors import UsageError
from pruneopt.model import Model
from pruneopt.passes.sparsify import Sparsify
from tests.backends.tvm.nets import RNG, model


def dense() -> Model:
    """Two layers that are large enough to be timed."""
    return model(
        "(float[b, 256] x) => (float[b, 128] y) { h = MatMul(x, v) i = Relu(h) y = MatMul(i, w) }",
        v=RNG.standard_normal((256, 512)).astype(np.float32),
        w=RNG.standard_normal((512, 128)).astype(np.float32),
    )


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Clock:
    monkeypatch.setattr(clock, "TRIALS", 2)
    monkeypatch.setattr(clock, "SECONDS", 0.2)
    return Clock("host", cache=tmp_path / "records.sqlite")


def test_layers_and_models_are_timed(quick: Clock) -> None:
    net = dense()
    made = Sparsify(0.9, "16x1", "magnitude").run(net, make_context(net)).model
    feeds = {"x": RNG.standard_normal((64, 256)).astype(np.float32)}
    lines: list[str] = []
    times = quick.times(made, feeds, lines.append)
    assert set(times) == {"h", "y"}
    assert all(0 < ms < 1000 for ms in times.values())
    assert any("trials/s" in line for line in lines)
    assert 0 < quick.ratio(net, made, feeds) < 20
    assert not list(Path(net.path or ".").glob("*.kernels.so"))


def test_a_latency_of_real_kernels(quick: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way: planned from times, measured, within the budget as it was measured."""
    monkeypatch.setattr(OnnxRuntime, "zeros", lambda *_: quick)
    net = dense()
    context = make_context(net)
    feeds: Any = {"x": RNG.standard_normal((256, 256)).astype(np.float32)}
    context.calibration = [feeds]
    made = Sparsify(pattern="16x1", latency=0.8, method="magnitude").run(net, context)
    assert min(each["measured"] for each in made.entry["latency"]) <= 0.8
    assert any(each["sparsity"] > 0 for each in made.entry["layers"])


def test_other_processors_are_not_timed_here() -> None:
    with pytest.raises(UsageError, match="--tracker"):
        Clock("llvm -mtriple=aarch64-linux-gnu -mcpu=cortex-a72")
