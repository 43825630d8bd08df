"""What was proved, in words: by sort of change, and nothing that was not."""

from __future__ import annotations

from typing import Any

import pruneopt as po
from pruneopt.proved import counted, proved, sparse
from tests import models
from tests.sparsity.test_sparsify import data


def entry(name: str, count: int, **more: Any) -> dict[str, Any]:
    return {"pass": name, "equivalence": {"max_rel_error": 1e-7, "atoms_checked": count}} | more


def report(*passes: dict[str, Any]) -> dict[str, Any]:
    total = sum(p.get("equivalence", {}).get("atoms_checked", 0) for p in passes)
    return {"equivalence": {"max_rel_error": 2e-6, "atoms_checked": total}, "passes": passes}


def test_each_sort_of_change_is_named() -> None:
    text = proved(report(entry("simplify", 0), entry("width", 3), entry("depth", 2, dropped=[{"name": "a"}])))
    assert text == "proved: equal to the original with 3 axes masked and 2 blocks switched off, to 2.0e-06"
    text = proved(report(entry("length", 1), entry("depth", 1), entry("width", 1)))
    assert "1 token reduction written out, 1 exit's condition added and 1 axis masked" in text
    resized = entry("length", 2, inputs=[{}, {}])
    assert "with 2 sizes that are smaller," in proved(report(resized))


def test_what_gives_weights_other_values_is_named() -> None:
    text = proved(report(entry("lowrank", 0), entry("sparsify", 0)))
    assert "the original with weights of lower rank before weights were set to zero, to" in text


def test_what_is_exact_has_nothing_masked() -> None:
    assert proved(report(entry("simplify", 0))) == "proved: equal to the original, to 2.0e-06"
    assert proved({"passes": []}) == ""


def test_steps_of_a_pass_count_once() -> None:
    steps = [entry("depth", 1, dropped=[{}]), entry("width", 4)]
    text = proved(report(entry("joint", 5, steps=steps)))
    assert "1 block switched off and 4 axes masked" in text
    assert "5" not in text


def test_zeros_are_counted_not_proved() -> None:
    model = models.loaded(models.transformer(layers=1))
    cut = "sparsify{sparsity=0.5, pattern=16x1, allocation=uniform}"
    made = po.prune(model, passes=cut, calib=data(model), timed=False).report
    assert proved(made).startswith("proved: equal to the original before weights were set to zero, to")
    (text,) = map(counted, sparse(made))
    assert text == "counted: 50.0% of 7 weights are zero, in the pattern (16x1, admm)"


def test_without_data_it_says_so() -> None:
    made = po.prune(models.loaded(models.transformer(layers=1)), sparsity=0.5, timed=False).report
    (text,) = map(counted, sparse(made))
    assert text.endswith("chosen without data, which costs accuracy: give --calib")
