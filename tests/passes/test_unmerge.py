"""Fused linear maps come apart and together again without changing a bit of the outputs."""

from __future__ import annotations

import pytest

from pruneopt import api
from pruneopt.analysis.groups import find_groups
from pruneopt.analysis.infer import analyse
from pruneopt.passes.merge import Merge
from pruneopt.passes.pipeline import Pipeline
from pruneopt.passes.simplify import Simplify
from pruneopt.passes.unmerge import Unmerge
from pruneopt.passes.width import Width
from tests import models


@pytest.mark.parametrize("pick", ["Gather", "Slice", "Split"])
def test_query_key_and_value_get_widths_of_their_own(pick: str) -> None:
    model = models.loaded(models.fused_attention(pick=pick))
    context = api.make_context(model)
    fused = Pipeline((Simplify(),)).run(model, context).model
    apart = Pipeline((Simplify(), Unmerge())).run(model, context)
    assert apart.entry["passes"][1]["taken_apart"] == 1
    assert apart.entry["passes"][1]["equivalence"]["max_rel_error"] < 1e-6
    assert _sizes(fused, context) == [4, 8]  # heads, and one width for all three
    assert _sizes(apart.model, context) == [4, 8, 8]  # query and key, value
    assert (
        sum(n.op == "MatMul" for n in apart.model.graph.nodes)
        == sum(n.op == "MatMul" for n in fused.graph.nodes) + 2
    )


def _sizes(model: object, context: object) -> list[int]:
    found = find_groups(analyse(model, context.observation(model)))  # type: ignore[arg-type, attr-defined]
    return sorted(g.size for g in found)


@pytest.mark.parametrize("pick", ["Gather", "Slice", "Split"])
def test_what_was_taken_apart_is_pruned_right(pick: str) -> None:
    model = models.loaded(models.fused_attention(pick=pick))
    outcome = Pipeline((Simplify(), Unmerge(), Width(ratio=0.5))).run(model, api.make_context(model))
    assert outcome.entry["passes"][2]["equivalence"]["max_rel_error"] < 1e-5


def test_equal_parts_are_joined_again() -> None:
    model = models.loaded(models.fused_attention())
    passes = (Simplify(), Unmerge(), Width(ratio=0.5), Merge())
    outcome = Pipeline(passes).run(model, api.make_context(model))
    assert outcome.entry["passes"][3]["joined"] == 3
    assert outcome.entry["passes"][3]["equivalence"]["max_rel_error"] < 1e-6
    products = [n for n in outcome.model.graph.nodes if n.op == "MatMul"]
    assert len(products) == 4  # joined, scores, mix, head


def test_separate_maps_are_left_alone() -> None:
    model = models.loaded(models.transformer())
    outcome = Pipeline((Simplify(), Unmerge())).run(model, api.make_context(model))
    assert outcome.entry["passes"][1]["taken_apart"] == 0


def test_a_map_to_one_channel_has_no_parts() -> None:
    b = models.Builder()
    one = b.node("Squeeze", b.node("Conv", "x", b.weight(1, 3, 1)), b.value([1]))
    b.node("MatMul", one, b.weight(24, 7), outputs=["y"])
    model = models.loaded(b.model({"x": ["n", 3, 24]}, {"y": ["n", 7]}))
    outcome = Pipeline((Unmerge(),)).run(model, api.make_context(model))
    assert outcome.entry["passes"][0]["taken_apart"] == 0
