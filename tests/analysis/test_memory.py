"""Peak activation memory, by hand and as a budget."""

from __future__ import annotations

import pytest

from pruneopt import api
from pruneopt.analysis.infer import analyse
from pruneopt.analysis.memory import activation_bytes, live_tensors
from pruneopt.passes.planning.costs import limits
from pruneopt.passes.planning.tally import Tally
from tests import models
from tests.models import Builder


def test_the_peak_is_the_largest_sum_of_what_is_alive() -> None:
    b = Builder()
    wide = b.node("Relu", b.node("MatMul", "x", b.weight(8, 32)))  # x 8, two of 32: 72 entries
    thin = b.node("MatMul", b.node("Reshape", wide, b.value([-1, 32])), b.weight(32, 4))  # a view is free
    b.node("Add", thin, b.node("MatMul", "x", b.weight(8, 4)), outputs=["y"])
    model = models.loaded(b.model({"x": [1, 8]}, {"y": [1, 4]}))
    context = api.make_context(model)
    assert activation_bytes(model, context.observation(model)) == 4 * (8 + 32 + 32)
    assert all(t.name != "t2" for t in live_tensors(model.graph))


def test_what_constants_make_is_no_activation() -> None:
    """A classifier that is the word table, turned."""
    model = models.loaded(models.tied_language_model())
    seen = api.make_context(model).observation(model)
    assert {"t3", "t4"} & {t.name for t in live_tensors(model.graph)}
    (turned,) = (n.outputs[0].name for n in model.graph.nodes if n.op == "Transpose")
    assert turned in seen.shapes
    assert all(t.name != turned for t in live_tensors(model.graph))


def test_types_are_followed() -> None:
    b = Builder()
    b.node("Cast", b.node("Greater", "x", b.value([0.0], "float32")), outputs=["y"], to=1)
    model = models.loaded(b.model({"x": ["n", 5]}, {"y": ["n", 5]}))
    sizes = {t.name: t.itemsize for t in live_tensors(model.graph)}
    assert sizes == {"x": 4, "t0": 1, "y": 4}


@pytest.mark.parametrize("net", [models.convnet, models.transformer, models.group_norm_net])
def test_the_terms_add_up_to_the_measure(net: object) -> None:
    model = models.loaded(net())  # type: ignore[operator]
    context = api.make_context(model)
    seen = context.observation(model)
    (limit,) = limits(analyse(model, seen), {"memory": 0.5})
    assert Tally(limit).total == limit.whole == activation_bytes(model, seen)


@pytest.mark.parametrize("budget", [0.9, 0.75])
def test_a_memory_budget_is_met(budget: float) -> None:
    report = api.prune(models.loaded(models.convnet()), memory=budget, timed=False).report
    before, after = (report[k]["activation_bytes"] for k in ("input", "output"))
    assert 0.5 * budget * before < after <= budget * before


def test_the_pressure_falls_where_the_maximum_does_not_yet() -> None:
    model = models.loaded(models.convnet())
    context = api.make_context(model)
    analysis = analyse(model, context.observation(model))
    (limit,) = limits(analysis, {"memory": 0.5})
    tally = Tally(limit)
    atoms = [a for term in limit.terms for a in term.axes if a.static and not a.frozen and a.size[0] > 8]
    pressures = []
    for atom in dict.fromkeys(atoms):
        before = tally.pressure
        tally.set({atom: atom.size[0] // 2})
        pressures.append(before - tally.pressure)
    assert all(p >= 0 for p in pressures)
    assert sum(p > 0 for p in pressures) >= 1
