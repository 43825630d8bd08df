"""Where zeros may stand: spellings, counts, and smaller units at the ends."""

from __future__ import annotations

import numpy as np
import pytest

from pruneopt.errors import UsageError
from pruneopt.passes.sparsity.patterns import Pattern, parse_pattern

ACCEPTED = {
    "unstructured": Pattern(),
    "16x1": Pattern(16, 1),
    "1x16": Pattern(1, 16),
    "4x8": Pattern(4, 8),
    "2:4": Pattern(kept=2, group=4),
    "1:8": Pattern(kept=1, group=8),
    "2:4x16": Pattern(16, 1, 2, 4),
}


@pytest.mark.parametrize("text", ACCEPTED)
def test_spellings(text: str) -> None:
    assert parse_pattern(text) == ACCEPTED[text]
    assert str(ACCEPTED[text]) == text


@pytest.mark.parametrize("text", ["", "16", "4:2", "4:4", "0:4", "0x4", "16x", "2:4x0", "2;4", "16x1x2"])
def test_refused_spellings(text: str) -> None:
    with pytest.raises(UsageError, match="pattern"):
        parse_pattern(text)


def scores(outputs: int, features: int) -> np.ndarray:
    return np.random.default_rng(outputs).random((outputs, features))


def test_blocks_of_outputs_share_a_zero() -> None:
    keep = parse_pattern("16x1").keep(scores(40, 30), 0.8)
    for start, stop in ((0, 16), (16, 32), (32, 40)):  # the last block is smaller
        rows = keep[start:stop]
        assert (rows == rows[0]).all()
    assert int(keep[::16].sum()) == round(0.2 * 90)


def test_blocks_of_features_go_together() -> None:
    keep = parse_pattern("1x16").keep(scores(7, 40), 0.5)
    for start, stop in ((0, 16), (16, 32), (32, 40)):
        columns = keep[:, start:stop]
        assert (columns == columns[:, :1]).all()
    assert int(keep[:, ::16].sum()) == 21 - round(0.5 * 21)


def test_two_of_four() -> None:
    s = scores(5, 12)
    keep = parse_pattern("2:4").keep(s, 0.9)  # the pattern says how many
    assert (keep.reshape(5, 3, 4).sum(2) == 2).all()
    worst_kept = np.where(keep, s, np.inf).reshape(5, 3, 4).min(2)
    best_gone = np.where(keep, -np.inf, s).reshape(5, 3, 4).max(2)
    assert (worst_kept >= best_gone).all()


def test_a_short_last_group_keeps_as_many() -> None:
    keep = parse_pattern("2:4").keep(scores(3, 7), 0.5)
    assert (keep[:, :4].sum(1) == 2).all()
    assert (keep[:, 4:].sum(1) == 2).all()


def test_outputs_share_two_of_four() -> None:
    keep = parse_pattern("2:4x16").keep(scores(32, 8), 0.5)
    assert (keep[:16] == keep[0]).all()
    assert (keep[16:] == keep[16]).all()
    assert (keep.reshape(32, 2, 4).sum(2) == 2).all()


def test_by_row_every_output_loses_as_many() -> None:
    keep = parse_pattern("unstructured").keep(scores(6, 10), 0.7, by_row=True)
    assert (keep.sum(1) == 3).all()


def test_of_equals_the_first_stays() -> None:
    keep = parse_pattern("unstructured").keep(np.ones((2, 4)), 0.5)
    assert keep.tolist() == [[True] * 4, [False] * 4]


@pytest.mark.parametrize("text", ["2:4", "2:4x16"])
def test_what_does_not_hold(text: str) -> None:
    pattern = parse_pattern(text)
    weight = np.ones((20, 10)) * pattern.keep(scores(20, 10), 0.5)
    assert pattern.holds(weight)
    weight[17, 0:4] = 1
    assert not pattern.holds(weight)


def test_sparsity_counts_whole_units_only() -> None:
    weight = np.ones((32, 4))
    weight[:16, 1] = 0
    weight[20:25] = 0
    assert parse_pattern("16x1").sparsity(weight) == 16 / 128
    assert parse_pattern("unstructured").sparsity(weight) == (16 + 20) / 128
    assert parse_pattern("16x1").zero_units(weight) == 1 / 8
