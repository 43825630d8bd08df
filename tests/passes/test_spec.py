"""Passes as text and back."""

from __future__ import annotations

import pytest

from pruneopt.errors import UsageError
from pruneopt.passes import Pipeline, Simplify, Verify, Width
from pruneopt.passes.spec import parse_passes
from tests import models

TEXTS = {
    "width{ratio=0.5}": Width(ratio=0.5),
    "width{macs=0.5, coupled=true, align=4}": Width(macs=0.5, coupled=True, align=4),
    "width{params=0.25, criterion=l1, only=blocks.*}": Width(params=0.25, criterion="l1", only="blocks.*"),
    "simplify": Simplify(),
    "verify": Verify(),
}


@pytest.mark.parametrize("text", TEXTS)
def test_text_makes_the_pass(text: str) -> None:
    assert parse_passes(text) == (TEXTS[text],)


def test_passes_are_separated_by_commas() -> None:
    assert parse_passes("simplify, width{ratio=0.5,floor=0.2},verify{}") == (
        Simplify(),
        Width(ratio=0.5, floor=0.2),
        Verify(),
    )


@pytest.mark.parametrize(
    "text", ["", "width{", "nosuch", "width{ratio=half}", "width{coupled=1,ratio=0.5}", "width{ratio}"]
)
def test_unreadable_text_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        parse_passes(text)


def test_a_pipeline_runs_by_itself() -> None:
    outcome = Pipeline([Simplify(), Width(macs=0.5)]).run(models.loaded(models.convnet()))
    assert outcome.entry["passes"][1]["equivalence"]["max_rel_error"] < 1e-5
