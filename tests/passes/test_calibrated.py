"""With calibration data: redundant width is free, repair helps, and two runs give the same bytes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

import pruneopt as po
from pruneopt.analysis.groups import find_groups
from pruneopt.analysis.infer import analyse
from pruneopt.api import make_context
from pruneopt.errors import UsageError
from pruneopt.frontends.dimensions import Feeds
from pruneopt.frontends.synthetic import synthetic
from pruneopt.model import Model
from pruneopt.passes.criteria import WEIGHTS_ONLY, find_criterion
from pruneopt.passes.pipeline import Pipeline
from pruneopt.passes.planning.allocate import allocate, choice
from pruneopt.passes.planning.costs import limits
from pruneopt.passes.planning.curves import curve_of
from pruneopt.passes.planning.measured import survey
from pruneopt.passes.rotate import Rotate
from pruneopt.passes.statistics.evidence import Evidence, gather
from tests import models

NETS: dict[str, Callable[[], onnx.ModelProto]] = {
    "convnet": models.convnet,
    "squeezed": models.squeezed,  # what makes the other side of a sum waits for a layer with more features
    "transformer": models.transformer,
    "parallel": models.parallel_transformer,  # what comes first writes to a sum that what comes second has written to
}


def data(model: Model, count: int = 10, seed: int = 0) -> list[Feeds]:
    """Batches of one size."""
    sizes = {d: 8 for t in model.inputs for d in t.shape if isinstance(d, str)}
    return [synthetic(model, sizes, seed + i) for i in range(count)]


def distance(a: Model, b: Model, batches: list[Feeds]) -> float:
    """Relative squared distance of the outputs."""
    report = po.compare(a, b, calib=batches)
    return max(float(m["rel_l2"]) for m in report["fidelity"].values())


@pytest.mark.parametrize("net", NETS)
def test_the_default_beats_uniform_magnitude(net: str) -> None:
    model = models.loaded(NETS[net]())
    seen, held = data(model), data(model, 4, seed=100)
    plain = po.prune(model, macs=0.6, timed=False).model
    repaired = po.prune(model, macs=0.6, calib=seen, timed=False)
    assert repaired.report["output"]["macs"] <= 0.6 * repaired.report["input"]["macs"]
    assert distance(model, repaired.model, held) < 0.8 * distance(model, plain, held)


def test_a_fixed_batch_stays_whole() -> None:
    """Probes run on single rows, where a model takes them."""
    proto = models.convnet()
    for tensor in (*proto.graph.input, *proto.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_value = 40
    model = models.loaded(proto)
    sizes = {d: 8 for t in model.inputs for d in t.shape if isinstance(d, str)}
    result = po.prune(model, macs=0.6, calib=[synthetic(model, sizes, i) for i in range(3)], timed=False)
    assert result.report["output"]["macs"] <= 0.6 * result.report["input"]["macs"]


@pytest.mark.parametrize("net", NETS)
def test_two_runs_give_the_same_bytes(net: str) -> None:
    model = models.loaded(NETS[net]())
    first, second = (po.prune(model, macs=0.6, calib=data(model), timed=False).model for _ in range(2))
    assert first.proto().SerializeToString(deterministic=True) == second.proto().SerializeToString(
        deterministic=True
    )


def doubled() -> onnx.ModelProto:
    """An inner width of 32 in which every neuron is there twice."""
    b = models.Builder()
    up, down = b.rng.standard_normal((12, 16)), b.rng.standard_normal((32, 5))
    up = np.concatenate([up, up], axis=1)
    x = b.node("Relu", b.node("MatMul", "x", b.value(up, np.float32)))
    b.node("MatMul", x, b.value(down, np.float32), outputs=["y"])
    return b.model({"x": ["n", 12]}, {"y": ["n", 5]})


def test_doubled_neurons_are_free() -> None:
    model = models.loaded(doubled())
    batches = [
        {"x": np.random.default_rng(i).standard_normal((64, 12)).astype(np.float32)} for i in range(10)
    ]
    result = po.prune(model, macs=0.5, calib=batches, timed=False)
    assert result.report["output"]["macs"] == 0.5 * result.report["input"]["macs"]
    assert distance(model, result.model, batches) < 0.03  # what the ridge costs


def test_a_bias_is_added_where_there_is_none() -> None:
    model = models.loaded(doubled())
    batches = [
        {"x": 1 + np.random.default_rng(i).standard_normal((64, 12)).astype(np.float32)} for i in range(10)
    ]
    result = po.prune(
        model, passes="width{ratio=0.25, criterion=random}, repair{ways=bias}", calib=batches, timed=False
    )
    assert [n.op for n in result.model.graph.nodes] == ["MatMul", "Relu", "MatMul", "Add"]


@pytest.mark.parametrize("name", [*WEIGHTS_ONLY, "wanda", "flap", "obs"])
@pytest.mark.parametrize("net", NETS)
def test_every_criterion_of_moments_scores_every_group(net: str, name: str) -> None:
    model = models.loaded(NETS[net]())
    context = make_context(model, data(model))
    analysis = analyse(model, context.observation(model))
    groups = [g for g in find_groups(analysis) if not g.coupled]
    evidence = gather(analysis, [g.atom for g in groups], context, context.calibration)
    for group in groups:
        scores = find_criterion(name)(group, evidence)
        assert scores.shape == (group.size,)
        assert np.isfinite(scores).all()
        again = find_criterion(name)(group, evidence)
        assert np.array_equal(scores, again)


def test_residual_width_is_refitted_to_the_original() -> None:
    model = models.loaded(models.transformer())
    seen, held = data(model), data(model, 4, seed=100)
    cut = "width{macs=0.7, criterion=l2, coupled=true}"
    plain = po.prune(model, passes=cut, timed=False).model
    repaired = po.prune(model, passes=f"{cut}, repair", calib=seen, timed=False).model
    assert distance(model, repaired, held) < 0.6 * distance(model, plain, held)


def test_a_criterion_that_needs_data_says_so() -> None:
    model = models.loaded(models.convnet())
    with pytest.raises(UsageError, match="--calib"):
        po.prune(model, passes="width{ratio=0.5, criterion=wanda}", timed=False)


def test_curves_rise_and_the_plan_uses_the_budget() -> None:
    model = models.loaded(models.convnet())
    context = make_context(model, data(model))
    analysis = analyse(model, context.observation(model))
    groups = find_groups(analysis)
    evidence = gather(analysis, [g.atom for g in groups], context, context.calibration)
    choices = []
    for group in groups:
        curve = curve_of(group, evidence)
        assert curve is not None
        assert curve.error[0] == 0
        assert (np.diff(curve.error) >= -1e-9).all()
        assert sorted(curve.order) == list(range(group.size))
        choices.append(choice(group, curve.error, 8, 0.1))
    (limit,) = limits(analysis, {"macs": 0.6})
    kept = allocate(choices, [limit])
    assert all(0.1 * g.size <= kept[g.atom] <= g.size for g in groups)


def test_rotation_is_exact_and_proved() -> None:
    model = models.loaded(models.transformer())
    context = make_context(model, data(model))
    outcome = Pipeline((Rotate(),)).run(model, context)
    (entry,) = outcome.entry["passes"]
    assert entry["rotated"] == 4
    assert entry["equivalence"]["max_rel_error"] < 1e-4


def test_values_of_more_entries_than_their_reader_has_outputs_are_turned() -> None:
    """As in Perceiver: no output hears most directions, and the basis is square all the same."""
    b = models.Builder()
    q, k, v = (b.node("MatMul", "x", b.weight(32, width)) for width in (4, 4, 32))
    scores = b.node("MatMul", q, b.node("Transpose", k, perm=[0, 2, 1]))
    mixed = b.node("MatMul", b.node("Softmax", scores, axis=-1), v)
    b.node("MatMul", mixed, b.weight(32, 5), outputs=["y"])
    model = models.loaded(b.model({"x": ["n", "s", 32]}, {"y": ["n", "s", 5]}))
    outcome = Pipeline((Rotate("heads"),)).run(model, make_context(model, data(model)))
    (entry,) = outcome.entry["passes"]
    assert entry["rotated"] == 2
    assert entry["equivalence"]["max_rel_error"] < 1e-4


def test_without_data_nothing_is_known() -> None:
    model = models.loaded(models.convnet())
    context = make_context(model)
    analysis = analyse(model, context.observation(model))
    with pytest.raises(UsageError):
        Evidence(analysis).views(find_groups(analysis)[0])


def test_what_occurs_in_other_samples_only_is_not_free() -> None:
    b = models.Builder()
    table = b.node("MatMul", "x", b.value(np.eye(16), np.float32))
    b.node("MatMul", table, b.weight(16, 5), outputs=["y"])
    model = models.loaded(b.model({"x": ["n", 16]}, {"y": ["n", 5]}))
    common, rare = (np.eye(16, dtype=np.float32)[np.arange(32) % 12 + lowest] for lowest in (0, 4))
    batches = [{"x": rare if i % 5 == 4 else common} for i in range(10)]  # every fifth is held out
    context = make_context(model, batches)
    analysis = analyse(model, context.observation(model))
    (group,) = find_groups(analysis)
    evidence = survey(analysis, [group], context, batches)
    curve = evidence.curves[group]
    assert set(curve.order[:4]) == {12, 13, 14, 15}
    assert evidence.rates[group].at(curve.error)[4] > 0.1
