"""Rows that a softmax makes classes of, and others that only look like it."""

from __future__ import annotations

import numpy as np
import pytest

from pruneopt.arrays import Array
from pruneopt.passes.statistics.readings import told_apart

RNG = np.random.default_rng(0)


def classes(count: int, sure: float) -> Array:
    """Noise, and more of one class in each row."""
    rows = RNG.normal(size=(200, count))
    rows[np.arange(200), RNG.integers(count, size=200)] += sure
    return rows


@pytest.mark.parametrize(("count", "sure"), [(10, 5), (100, 7), (1000, 9)])
def test_scores_of_classes(count: int, sure: float) -> None:
    found = told_apart(classes(count, sure).astype(np.float32))
    assert 0.1 * min(count, 200) < found < count
    assert told_apart(classes(count, sure) + 0.5) == pytest.approx(found, rel=0.2)


def test_scores_of_many_classes_on_few_rows() -> None:
    rows = classes(50_000, 12.0)[:100]
    assert 20 < told_apart(rows) < 100
    assert told_apart(rows + 7) == pytest.approx(told_apart(rows))
    assert told_apart(rows[:1]) == 0


def test_scores_that_know_nothing() -> None:
    assert not told_apart(classes(1000, 0.0))


def test_an_embedding_of_unit_length() -> None:
    rows = RNG.normal(size=(200, 384))
    assert not told_apart(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def test_an_embedding_with_one_entry_that_is_always_huge() -> None:
    assert not told_apart(0.5 * RNG.normal(size=(200, 512)) + 12 * np.eye(512)[7])


def test_coordinates() -> None:
    assert not told_apart(RNG.uniform(0, 640, size=(200, 34)))


def test_few_entries_and_numbers_that_are_none() -> None:
    assert not told_apart(classes(9, 9))
    assert not told_apart(np.full((4, 5), np.nan))
