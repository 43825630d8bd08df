"""Budgets are shares of what the user gave, whatever has been saved before a pass that spends one."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import pruneopt as po
from pruneopt import api
from pruneopt.model import Model
from pruneopt.passes import Pipeline, Width
from pruneopt.passes.planning.costs import met, shares_of
from pruneopt.passes.simplify import Simplify
from tests import models

WIDTH = 24
DATA = [{"x": np.random.default_rng(i).standard_normal((2, 6, WIDTH)).astype(np.float32)} for i in range(10)]


def wasteful(wide: int = 1024) -> Model:
    """A transformer, and a product beside it that nothing reads: exact rewrites save about a quarter."""
    proto: onnx.ModelProto = models.transformer()
    weight = numpy_helper.from_array(np.ones((WIDTH, wide), np.float32), "idle_weight")
    proto.graph.initializer.append(weight)
    proto.graph.node.append(helper.make_node("MatMul", ["x", "idle_weight"], ["idle"], "idle_product"))
    return models.loaded(proto)


def left(result: po.Result, cost: str) -> float:
    """Share of a cost by the report."""
    kept: float = result.report["output"][cost] / result.report["input"][cost]
    return kept


def test_exact_rewrites_count() -> None:
    model = wasteful()
    context = api.make_context(model)
    small = Simplify().run(model, context).model
    assert shares_of(model, context) == dict.fromkeys(("macs", "params", "bytes", "memory"), 1.0)
    assert 0.6 < shares_of(small, context)["macs"] < 0.9
    assert met({"macs": 0.9, "params": 0.9}, small, context)
    assert not met({"macs": 0.9, "params": 0.2}, small, context)


@pytest.mark.parametrize("cost", ["macs", "params", "bytes"])
@pytest.mark.parametrize("calib", [None, DATA])
def test_a_budget_is_a_share_of_the_model_as_it_was_given(cost: str, calib: Any) -> None:
    budget: dict[str, Any] = {cost: 0.6}
    result = po.prune(wasteful(), **budget, calib=calib, timed=False)
    assert 0.57 < left(result, cost) <= 0.602  # a bias of several layers counts for each in budgets


def test_where_exact_rewrites_are_enough_nothing_is_pruned() -> None:
    result = po.prune(wasteful(), macs=0.9, calib=DATA, timed=False)
    assert left(result, "macs") < 0.9
    assert "already" in result.report["passes"][1]["note"]
    assert all(f["rel_l2"] < 1e-5 for f in result.report["fidelity"].values())


def test_each_of_several_budgets_in_a_row_is_of_the_same_whole() -> None:
    model = wasteful()
    result = po.prune(model, passes="width{macs=0.7}, width{macs=0.6}, width{macs=0.6}", timed=False)
    assert 0.57 < left(result, "macs") <= 0.6
    outcome = Pipeline([Width(macs=0.6)]).run(model)
    context = api.make_context(model)
    assert 0.57 < shares_of(outcome.model, context)["macs"] <= 0.6


@pytest.mark.parametrize("passes", ["depth{macs=0.6}", "length{macs=0.6}", "joint{macs=0.6}"])
def test_all_that_spends_one_means_the_same(passes: str) -> None:
    fine = passes.startswith("length")  # tokens are few here
    result = po.prune(wasteful(), passes=passes, calib=DATA, timed=False)
    assert (0.3 if fine else 0.45) < left(result, "macs") <= 0.6
    result = po.prune(wasteful(), passes=passes.replace("0.6", "0.9"), calib=DATA, timed=False)
    assert left(result, "macs") < 0.9
    assert all(f["rel_l2"] < 1e-5 for f in result.report["fidelity"].values())


def test_what_cannot_be_met_is_said_as_a_share_of_the_same() -> None:
    with pytest.raises(po.PruneoptError) as error:
        po.prune(wasteful(8192), passes="width{macs=0.001, floor=0.9}", timed=False)
    least = error.value.details["least"]
    assert isinstance(least, dict)
    assert least["macs"] < 0.5  # of its own multiplications nearly all


def test_the_free_part_and_the_trade_off_are_shares_of_it_too() -> None:
    result = po.prune(wasteful(), tolerance=0.3, calib=DATA, timed=False)
    assert left(result, "macs") <= result.report["passes"][1]["macs"] + 1e-9
    assert result.report["trade_off"][0]["macs"] < 0.9
