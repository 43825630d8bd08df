"""Budgets in latency, on a clock that counts work instead of time: no test hangs on how busy the machine is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from pruneopt import api
from pruneopt.analysis.axes import Axis
from pruneopt.analysis.groups import find_groups
from pruneopt.analysis.infer import analyse
from pruneopt.backends.kernels import Kernels
from pruneopt.backends.ort import OnnxRuntime
from pruneopt.backends.turns import Timing
from pruneopt.errors import PruneoptError
from pruneopt.model import Model
from pruneopt.passes import width as width_module
from pruneopt.passes.context import Context
from pruneopt.passes.planning.fit import Timed, remainder, settle_all
from pruneopt.passes.planning.latency import PLANS, Stopwatch
from pruneopt.passes.planning.measured import survey
from pruneopt.passes.planning.sites import Site
from pruneopt.passes.planning.tally import Limit, worthwhile
from pruneopt.passes.width import Width
from tests import models

GRAIN = 16


@dataclass
class Counted(OnnxRuntime):
    """A runtime that pads channels to `GRAIN`, and whose clock counts their products."""

    bias: float = 1.0  # of whole models against their kernels
    table: dict[str, float] = field(default_factory=dict)
    profiled: int = 0

    def kernels(self, model: Model, feeds: Any, threads: int = 1, seconds: float = 0.2) -> Kernels:
        self.profiled += 1
        times = [(node.name, _work(node)) for node in model.graph.nodes]
        return Kernels(times, sum(ms for _, ms in times), 1.0)

    def compare(
        self, a: Model, b: Model, feeds: Any, threads: int = 1, seconds: float = 1.0
    ) -> tuple[Timing, Timing]:
        first, second = (sum(map(_work, m.graph.nodes)) for m in (a, b))
        ratio = (second / first) ** (1 / self.bias)
        return Timing(first, 1.0, 0.0), Timing(first * ratio, ratio, 0.0)

    def timings(self, threads: int = 1) -> Any:
        return self

    def get(self, kernels: Sequence[str]) -> dict[str, float]:
        return {k: self.table[k] for k in kernels if k in self.table}

    def put(self, found: Mapping[str, float]) -> None:
        self.table |= found


def _work(node: gs.Node) -> float:
    weights = [t for t in node.inputs if isinstance(t, gs.Constant) and len(t.shape) > 1]
    return 1e-3 + float(sum(prod(-(-n // GRAIN) * GRAIN for n in t.shape[:2]) * 1e-4 for t in weights))


def context_of(model: Model, calib: Any = None, bias: float = 1.0) -> tuple[Context, Counted]:
    context = api.make_context(model, calib)
    context.backend = clock = Counted(bias)
    return context, clock


def share(before: Model, after: Model) -> float:
    first, second = (sum(map(_work, m.graph.nodes)) for m in (before, after))
    return second / first


@pytest.mark.parametrize("net", [models.convnet, models.transformer])
@pytest.mark.parametrize("budget", [0.6, 0.8])
def test_the_budget_is_met_and_used(net: Any, budget: float) -> None:
    model = models.loaded(net())
    context, _ = context_of(model)
    outcome = Width(latency=budget, floor=0.05).run(model, context)
    assert 0.7 * budget < share(model, outcome.model) <= budget
    (*_, last) = outcome.entry["latency"]
    assert last["measured"] == pytest.approx(share(model, outcome.model))


def test_widths_that_are_padded_lose_by_themselves() -> None:
    model = models.loaded(models.transformer(2, 64, 4))
    context, _ = context_of(model)
    outcome = Width(latency=0.7).run(model, context)
    wide = [g for g in outcome.entry["groups"] if g["size"] == 256]
    assert any(g["kept"] < 256 for g in wide)
    assert all(g["kept"] % GRAIN == 0 for g in wide)


@pytest.mark.parametrize("bias", [0.8, 1.25])
def test_wrong_predictions_are_put_right_by_measurements(bias: float) -> None:
    model = models.loaded(models.transformer(2))
    context, clock = context_of(model, bias=bias)
    outcome = Width(latency=0.7).run(model, context)
    _, found = clock.compare(model, outcome.model, None)
    assert 0.7 * 0.7 < found.ratio_to_first <= 0.7
    assert len(outcome.entry["latency"]) > 1


def test_what_cannot_be_reached_is_said_with_the_least() -> None:
    model = models.loaded(models.convnet())
    context, _ = context_of(model)
    with pytest.raises(PruneoptError, match="latency cannot") as error:
        Width(latency=0.01).run(model, context)
    assert 0.01 < error.value.details["least"]["latency"] < 1  # type: ignore[index]
    assert "frozen" in error.value.details


def test_what_was_timed_once_is_not_timed_again() -> None:
    model = models.loaded(models.transformer())
    context, clock = context_of(model)
    analysis = analyse(model, context.observation(model))
    groups = find_groups(analysis)
    first = Stopwatch(analysis, groups, context)
    assert clock.profiled == 1 + PLANS
    second = Stopwatch(analysis, groups, context)
    assert clock.profiled == 2 + PLANS  # the whole model again: it says which kernels there are
    sizes = {g.atom: max(1, g.size // 2) for g in groups}
    times = [Total(watch.limit(1.0)).at(sizes) for watch in (first, second)]
    assert times[0] == pytest.approx(times[1])


class Total:
    """A limit's cost at given sizes."""

    def __init__(self, limit: Limit) -> None:
        self.limit = limit

    def at(self, sizes: dict[Axis, int]) -> float:
        from pruneopt.passes.planning.tally import Tally

        return Tally(self.limit).set(sizes)


def test_statistics_are_gathered_once_for_all_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.loaded(models.transformer(2))
    rng = np.random.default_rng(0)
    calib = [{"x": rng.standard_normal((4, 8, 24), dtype=np.float32)} for _ in range(4)]
    context, _ = context_of(model, calib, bias=0.8)
    calls = []

    def counted(*given: Any) -> Any:
        calls.append(1)
        return survey(*given)

    monkeypatch.setattr(width_module, "survey", counted)
    outcome = Width(latency=0.6).run(model, context)
    assert len(outcome.entry["latency"]) > 1
    assert len(calls) == 1
    assert {"macs", "latency", "damage"} <= set(outcome.entry["trade_off"][0])
    assert [p["damage"] for p in outcome.entry["trade_off"]] == sorted(
        p["damage"] for p in outcome.entry["trade_off"]
    )


@pytest.mark.parametrize(("ratios", "kept"), [((1.2, 1.2), True), ((1.2, 0.9), False), ((0.9,), False)])
def test_nothing_slower_than_the_input_is_given(
    monkeypatch: pytest.MonkeyPatch, ratios: tuple[float, ...], kept: bool
) -> None:
    """A second measurement decides, so that noise does not."""
    model = models.loaded(idle_neurons())
    found = iter(ratios)
    monkeypatch.setattr(
        OnnxRuntime, "compare", lambda *a, **k: (Timing(1.0, 1.0, 0.0), Timing(1.0, next(found), 0.0))
    )
    result = api.prune(model)
    assert ("kept_input" in result.report) == kept
    assert (result.report["output"]["macs"] == result.report["input"]["macs"]) == kept
    assert (result.model is model) == kept


def idle_neurons() -> Any:
    """Neurons that nothing reads: free to remove."""
    b = models.Builder()
    second = b.rng.standard_normal((32, 4)).astype(np.float32)
    second[8:] = 0
    b.node(
        "MatMul",
        b.node("Relu", b.node("MatMul", "x", b.weight(16, 32))),
        b.value(second, np.float32),
        outputs=["y"],
    )
    return b.model({"x": ["n", 16]}, {"y": ["n", 4]})


# --- the formula ------------------------------------------------------------------------------------


def timed(law: Any, grain: int = 1) -> Timed:
    a, b = Axis((64, 64)), Axis((64, 64))
    term = Timed(Site("Conv", ((a, b),), ((a,), (b,)), ""), (a, b))
    for sizes in ((64, 64), (56, 40), (24, 64), (40, 24), (64, 16), (16, 32), (48, 56), (32, 8)):
        term.add(sizes, law(*(-(-n // grain) * grain for n in sizes)))
    settle_all([term])
    return term


@pytest.mark.parametrize("grain", [1, 16])
def test_a_law_of_work_and_overhead_is_found_from_a_few_points(grain: int) -> None:
    term = timed(lambda a, b: 0.01 + 2e-5 * a * b, grain)
    assert term.grain == grain
    for a, b in ((64, 48), (48, 32), (16, 16)):
        assert term.at((a, b)) == pytest.approx(0.01 + 2e-5 * a * b, rel=0.05)
    padded = term.at((40, 64)) == pytest.approx(term.at((48, 64)))
    assert padded == (grain == 16)


def test_a_width_that_is_slow_for_reasons_of_its_own_is_slow_in_the_formula() -> None:
    term = timed(lambda a, b: 3.0 if b == 8 else 1e-3 * a * b)
    assert term.at((32, 8)) > 3 * term.at((32, 16))


def test_what_runs_between_kernels_is_part_fixed_part_not() -> None:
    runs = [(k, 0.5 + 1.1 * k) for k in (10.0, 7.0, 4.0, 2.0)]
    assert remainder(runs) == pytest.approx((0.5, 1.1))


def test_sizes_that_cost_as_much_as_larger_ones_are_left_out() -> None:
    atom = Axis((64, 64))

    class Stairs:
        axes = (atom,)

        def at(self, sizes: Sequence[int]) -> float:
            return float(-(-sizes[0] // 16))

    sizes = list(range(64, 0, -8))
    limit = Limit("latency", [Stairs()], 4.0, 0.5, uneven=True)
    assert worthwhile(atom, sizes, [limit]) == [64, 48, 32, 16]
    even = Limit("latency", [Stairs()], 4.0, 0.5)
    assert worthwhile(atom, sizes, [even]) == sizes
