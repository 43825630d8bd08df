"""Depth, length and width under one budget: the axis that is free is found, and no plan is worse than a single axis."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import pruneopt as po
from pruneopt.errors import PruneoptError, UsageError
from pruneopt.frontends.dimensions import Feeds
from pruneopt.model import Model
from pruneopt.passes.spec import parse_passes
from tests import models
from tests.passes.length.net import WIDTH, Encoder

ENCODER = Encoder(layers=3, tokens=16, read="mean")


def batches(twice: bool = False, count: int = 10, seed: int = 0) -> list[Feeds]:
    """Real inputs of the encoder; with `twice`, every token has a double next to it."""
    rng = np.random.default_rng(seed)
    made = [rng.standard_normal((4, 16, WIDTH)).astype(np.float32) for _ in range(count)]
    return [{"x": np.repeat(x[:, ::2], 2, axis=1) if twice else x} for x in made]


def silenced(proto: onnx.ModelProto, layer: int, left: float = 0.0) -> onnx.ModelProto:
    """The feed-forward part of a layer adds nothing, or only that share of what it did."""
    closing = [w for w in proto.graph.initializer if list(w.dims) == [64, WIDTH]]
    quiet = numpy_helper.to_array(closing[layer]) * np.float32(left)
    closing[layer].CopyFrom(numpy_helper.from_array(quiet, closing[layer].name))
    return proto


def joint(proto: onnx.ModelProto, passes: str, calib: list[Feeds]) -> tuple[po.Result, dict[str, Any]]:
    """The result and what the pass said."""
    result = po.prune(Model.from_proto(proto), passes=passes, calib=calib, timed=False)
    return result, next(p for p in result.report["passes"] if p["pass"] == "joint")


def chosen(entry: dict[str, Any]) -> dict[str, Any]:
    """The row of the plan that won."""
    row: dict[str, Any] = entry["candidates"][entry["chosen"]]
    return row


@pytest.fixture(scope="module")
def everything() -> tuple[po.Result, dict[str, Any]]:
    """A silent block and tokens that are there twice, neither of which is enough for the budget; all axes."""
    return joint(silenced(ENCODER.proto(), 0), "joint{macs=0.75, tries=2}", batches(twice=True))


def test_a_block_that_adds_nothing_goes() -> None:
    _, entry = joint(silenced(ENCODER.proto(), 1), "joint{macs=0.855, axes=depth+length}", batches())
    row = chosen(entry)
    assert (row["axes"], row["depth"]) == ("depth", "layer1.1")
    assert row["damage"] < 1e-9
    assert row["kept"]["macs"] <= 0.855


def test_tokens_that_are_there_twice_are_merged() -> None:
    _, entry = joint(ENCODER.proto(), "joint{macs=0.88, axes=depth+length}", batches(twice=True))
    row = chosen(entry)
    others = [c["damage"] for c in entry["candidates"] if c["axes"] == "depth"]
    assert (row["axes"], row["length"]) == ("length", "tome 0.88")
    assert row["damage"] < 0.2 * min(others)


def test_two_free_axes_are_used_together(everything: tuple[po.Result, dict[str, Any]]) -> None:
    result, entry = everything
    row = chosen(entry)
    alone = [c["damage"] for c in entry["candidates"] if "damage" in c and "+" not in c["axes"]]
    assert {"depth", "length"} <= set(row["axes"].split("+"))
    assert "layer0.1" in row["depth"]
    assert row["damage"] < 0.5 * min(alone)
    assert result.report["output"]["macs"] <= 0.75 * result.report["input"]["macs"]
    assert result.report["equivalence"]["max_rel_error"] < 1e-4


def test_the_result_is_no_worse_than_any_plan_that_was_carried_out(
    everything: tuple[po.Result, dict[str, Any]],
) -> None:
    _, entry = everything
    done = [c for c in entry["candidates"] if "damage" in c]
    assert {"depth", "length", "width"} <= {c["axes"] for c in done}
    assert chosen(entry)["damage"] == min(c["damage"] for c in done)
    assert all(c["kept"]["macs"] <= 0.75 + 1e-6 for c in done)
    assert all("skipped" in c for c in entry["candidates"] if c not in done)


def test_two_runs_are_equal(everything: tuple[po.Result, dict[str, Any]]) -> None:
    again = joint(silenced(ENCODER.proto(), 0), "joint{macs=0.75, tries=2}", batches(twice=True))
    models_of = [each[0].model.proto().SerializeToString() for each in (everything, again)]
    assert models_of[0] == models_of[1]
    assert everything[1]["candidates"] == again[1]["candidates"]


def test_what_an_axis_refuses_is_said() -> None:
    rng = np.random.default_rng(0)
    calib = [{"x": rng.standard_normal((4, 3, 16, 16)).astype(np.float32)} for _ in range(6)]
    result, entry = joint(models.convnet(), "joint{macs=0.7}", calib)
    assert "no softmax" in entry["refused"]["length (tome)"]
    assert result.report["output"]["macs"] <= 0.7 * result.report["input"]["macs"]
    _, entry = joint(models.convnet(), "joint{params=0.8}", calib)
    assert "params" in entry["refused"]["length"]


def test_axes_that_are_not_asked_for_take_no_part() -> None:
    _, entry = joint(ENCODER.proto(), "joint{macs=0.7, axes=depth+length}", batches())
    assert {axis for c in entry["candidates"] for axis in c["axes"].split("+")} == {"depth", "length"}


def test_a_budget_that_no_axis_meets_is_refused_with_the_reasons() -> None:
    model = Model.from_proto(ENCODER.proto())
    with pytest.raises(PruneoptError, match=r"cannot be met along any axis.*length alone cannot go below"):
        po.prune(model, passes="joint{macs=0.001, axes=length}", calib=batches(), timed=False)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("joint{}", "how much to keep"),
        ("joint{macs=1.5}", "not in"),
        ("joint{macs=0.5, axes=depth+hight}", "no axis 'hight'"),
        ("joint{macs=0.5, tries=-1}", "tries"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_passes(text)


def test_it_needs_real_inputs() -> None:
    with pytest.raises(UsageError, match="--calib"):
        po.prune(Model.from_proto(ENCODER.proto()), passes="joint{macs=0.7}")


def test_a_budget_is_spent_on_the_axes_that_are_named() -> None:
    model = Model.from_proto(ENCODER.proto())
    result = po.prune(model, macs=0.9, axes="depth+length", calib=batches(count=5), timed=False)
    assert "joint" in [p["pass"] for p in result.report["passes"]]
    with pytest.raises(UsageError, match="what a budget or a tolerance is spent on"):
        po.prune(model, axes="depth", passes="width{macs=0.5}")


def test_a_tolerance_is_spent_on_the_axes_that_are_named() -> None:
    model = Model.from_proto(silenced(ENCODER.proto(), 0, left=1e-3))
    result = po.prune(model, tolerance=0.05, axes="depth", calib=batches(count=5), timed=False)
    entry = next(p for p in result.report["passes"] if p["pass"] == "tolerance")
    assert chosen(entry)["depth"] == "layer0.1"
    assert result.report["output"]["macs"] < 0.9 * result.report["input"]["macs"]
    assert result.report["fidelity"]["y"]["rel_l2"] < 0.05
