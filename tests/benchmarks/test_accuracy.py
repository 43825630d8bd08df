"""The accuracy benchmark: distances, tables, the search for a peer's ratio, and what models are fed with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.accuracy import table
from benchmarks.accuracy.demosaic import bayer
from benchmarks.accuracy.magika import BYTES, NOTHING, features
from benchmarks.accuracy.peer import bisect
from benchmarks.accuracy.smollm2 import perplexity
from benchmarks.accuracy.table import Row
from benchmarks.accuracy.task import by_length, distance, moved


def test_distances() -> None:
    a, b = np.array([[3.0, 0.0], [0.0, 2.0]]), np.array([[0.0, 1.0], [0.0, 5.0]])
    assert distance([a], [b], "cosine") == pytest.approx(0.5)
    # As one vector each: 3 * 0 + 2 * 5 over the norms.
    assert distance([a[None]], [b[None]], "sample") == pytest.approx(1 - 10 / (13**0.5 * 26**0.5))
    assert moved([a], [b]) == pytest.approx(((9 + 1 + 9) / 13) ** 0.5)


def test_kl_of_logits_and_of_probabilities() -> None:
    p, q = np.array([[0.5, 0.5]]), np.array([[0.9, 0.1]])
    wanted = 0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(0.5 / 0.1)
    assert distance([p], [q], "kl") == pytest.approx(wanted)
    assert distance([np.log(p) - 7], [np.log(q) + 3], "kl") == pytest.approx(wanted)


def test_perplexity_of_a_uniform_guess_is_the_number_of_words() -> None:
    held = [{"input_ids": np.array([[1, 2, 3]])}]
    assert perplexity(lambda feeds: np.zeros((1, 3, 11)), held) == pytest.approx(11)


def test_bisection_finds_the_least_pruning_within_the_share() -> None:
    assert bisect(lambda ratio: (ratio, (1 - ratio) ** 2), 0.5) == pytest.approx(1 - 0.5**0.5, abs=0.005)
    with pytest.raises(SystemExit, match=r"0\.9"):
        bisect(lambda ratio: (ratio, 1 - 0.1 * ratio), 0.5)


def test_rows_survive_and_folds_are_averaged(tmp_path: Path) -> None:
    rows = [
        Row("net", "default", 0.5, 0.5, {"test": d}, "KL", d, {"top1": 1 - d}, 0.6, 8.0) for d in (0.1, 0.3)
    ]
    table.write(tmp_path / "rows.json", rows)
    assert table.known(tmp_path / "rows.json") == rows
    both = table.mean(rows)
    assert both.distances == pytest.approx({"test": 0.2})
    assert both.scores == pytest.approx({"top1": 0.8})
    assert both.seconds == 8.0
    broken = Row("net", "default", 0.5, status="no")
    assert table.mean([rows[0], broken]) == broken


def test_table_shows_the_distance_over_the_best_peers() -> None:
    rows = [
        Row("net", "default", 0.5, 0.5, {"test": 0.01}, "KL", scores={}),
        Row("net", "uniform l2", 0.5, 0.5, {"test": 0.1}, "KL", scores={}),
        Row("net", "Torch-Pruning", 0.5, 0.5, {"test": 0.4}, "KL", scores={}),
        Row("net", "onnxsim", 0.5, status="cannot | reach it"),
    ]
    lines = table.markdown(rows, ("uniform l2", "Torch-Pruning", "onnxsim")).splitlines()
    assert "| 0.1 |" in lines[2]
    assert "cannot / reach it" in lines[5]
    assert len({line.count("|") for line in lines}) == 1


def test_bayer_keeps_one_colour_of_each_pixel() -> None:
    seen = bayer(np.ones((3, 4, 4), np.float32))
    assert (seen.sum(0) == 1).all()
    assert seen.sum((1, 2)).tolist() == [4, 8, 4]


def test_features_of_short_and_long_files(tmp_path: Path) -> None:
    short, long = tmp_path / "short", tmp_path / "long"
    short.write_bytes(b"  abc\n")
    row = features(short)
    assert row[:4].tolist() == [97, 98, 99, NOTHING]
    assert row[-4:].tolist() == [NOTHING, 97, 98, 99]
    long.write_bytes(b" " + b"x" * 6000 + b"y \n")
    row = features(long)
    assert (row[:BYTES] == ord("x")).all()
    assert row[-2:].tolist() == [ord("x"), ord("y")]


def test_batches_of_equal_length() -> None:
    found = by_length([[1], [2, 3], [4], [5]], most=2)
    assert found == [[[1], [4]], [[5]], [[2, 3]]]
