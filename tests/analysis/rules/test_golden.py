"""One line per op: what its rule makes of a small node. `pytest --update-golden` writes them anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from pruneopt.analysis.rules import known_ops
from tests.analysis.rules.cases import CASES
from tests.analysis.rules.one_node import golden

FILE = Path(__file__).with_name("golden.txt")


def test_golden_lines(request: pytest.FixtureRequest) -> None:
    lines = [golden(case) for case in CASES]
    if request.config.getoption("--update-golden"):
        FILE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert lines == FILE.read_text(encoding="utf-8").splitlines()


def test_every_rule_has_a_line() -> None:
    bodies = {("", "If"), ("", "Loop"), ("", "Scan")}  # more than one node: tests/passes/test_bodies.py
    assert set(known_ops()) - bodies == {(case.domain, case.op) for case in CASES}


def test_cases_have_distinct_names() -> None:
    assert len({str(case) for case in CASES}) == len(CASES)
