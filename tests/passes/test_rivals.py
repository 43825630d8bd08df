"""The less harmful of two ways is taken, and a harmless one is not called into question."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

import pruneopt as po
from pruneopt.api import make_context
from pruneopt.errors import PruneoptError, UsageError
from pruneopt.passes import repair as repair_module
from pruneopt.passes import rivals
from pruneopt.passes import width as width_module
from pruneopt.passes.base import Outcome
from pruneopt.passes.context import Context
from pruneopt.passes.repair import Repair
from pruneopt.passes.rivals import better
from pruneopt.passes.sequence import refit_all
from pruneopt.passes.width import Width
from tests import models
from tests.passes.test_calibrated import data, doubled

NAMES = ("one", "two")


def outcomes() -> tuple[Context, Outcome, Outcome]:
    """A little gone, and much."""
    model = models.loaded(models.transformer())
    context = make_context(model, data(model))
    little, much = (Width(macs=share, plan="uniform").run(model, context) for share in (0.9, 0.4))
    return context, little, much


def test_the_less_harmful_one_is_taken() -> None:
    context, little, much = outcomes()
    for first, second, name in ((little, much, "one"), (much, little, "two")):
        found = better(first, lambda second=second: second, NAMES, context)  # type: ignore[misc]
        assert found.model is little.model
        assert found.claim is little.claim
        assert found.entry["chosen"] == name
        assert found.entry["rivals"][name] == min(found.entry["rivals"].values())


def test_what_was_repaired_to_compare_is_not_repaired_again(monkeypatch: pytest.MonkeyPatch) -> None:
    context, little, much = outcomes()
    ways: list[str] = []

    def counted(*given: Any) -> Any:
        ways.append(given[3].way)
        return refit_all(*given)

    monkeypatch.setattr(repair_module, "refit_all", counted)
    monkeypatch.setattr(rivals, "HOPELESS", math.inf)
    found = better(little, lambda: much, NAMES, context)
    assert ways == ["stream", "stream"]
    context.claim = found.claim
    mended = Repair(ways="stream").run(found.model, context)
    assert ways == ["stream", "stream"]
    assert mended.entry["distances"]["stream"] == found.entry["rivals"]["one"]
    Repair(ways="stream").run(found.model, context)  # it is not kept for ever
    assert len(ways) == 3


def test_what_does_far_more_harm_before_repair_is_not_repaired(monkeypatch: pytest.MonkeyPatch) -> None:
    context, little, much = outcomes()
    once = [refit_all]
    monkeypatch.setattr(rivals, "HOPELESS", 1.0)
    monkeypatch.setattr(repair_module, "refit_all", lambda *given: once.pop()(*given))
    found = better(little, lambda: much, NAMES, context)
    assert found.claim is little.claim
    assert found.entry["rivals"]["one"] < found.entry["rivals"]["two"]
    assert not once


def test_what_cannot_meet_the_budget_is_passed_over() -> None:
    context, little, _ = outcomes()

    def fails() -> Outcome:
        raise PruneoptError("cannot", least=0.95)

    assert better(little, fails, NAMES, context) is little


def test_a_plan_that_does_no_more_harm_than_it_foresaw_has_no_rival() -> None:
    context, little, much = outcomes()
    known = replace(much, entry=much.entry | {"foreseen": 1e3})
    assert better(known, lambda: little, NAMES, context) is known
    surprised = replace(much, entry=much.entry | {"foreseen": 1e-9})
    assert better(surprised, lambda: little, NAMES, context).claim is little.claim


def test_other_failures_are_not_hidden() -> None:
    context, little, _ = outcomes()

    def fails() -> Outcome:
        raise PruneoptError("broken")

    with pytest.raises(PruneoptError, match="broken"):
        better(little, fails, NAMES, context)


def test_a_harmless_plan_has_no_rival() -> None:
    model = models.loaded(doubled())
    result = po.prune(model, macs=0.9, calib=data(model), timed=False)
    assert all("rivals" not in entry for entry in result.report["passes"])


def test_a_plan_that_does_harm_unforeseen_is_compared_with_plain_magnitude(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(width_module, "foreseen", lambda *_: 0.0)
    model = models.loaded(models.transformer())
    for text, compared in (("width{macs=0.6}", True), ("width{macs=0.6, against=none}", False)):
        result = po.prune(model, passes=text, calib=data(model), timed=False)
        (entry,) = (e for e in result.report["passes"] if e["pass"] == "width")
        assert ("rivals" in entry) == compared


def test_a_rival_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UsageError, match="no criterion"):
        Width(macs=0.5, against="nothing")
