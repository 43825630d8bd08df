"""The demo's lines of text: drawn within their images, and read as a recogniser's classes say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

FILE = Path(__file__).parents[2] / "examples" / "lines.py"


@pytest.fixture(scope="module")
def lines() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lines", FILE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_drawn_lines_are_images_in_range_with_ink_and_the_words_asked_for(lines: ModuleType) -> None:
    batches, texts = lines.drawn(["prune", "axis"], 24, seed=3)
    assert [batch.shape for batch in batches] == [(8, 3, 48, width) for width in lines.WIDTHS]
    assert all(batch.dtype == np.float32 and np.abs(batch).max() <= 1 for batch in batches)
    assert all(np.ptp(image) > 0.5 for batch in batches for image in batch)
    assert {word for text in texts for word in text.split()} == {"prune", "axis"}


def test_equal_neighbours_are_one_character_unless_a_blank_lies_between(lines: ModuleType) -> None:
    steps = np.array([[1, 1, 0, 1, 2, 2, 0, 3], [0, 3, 1, 0, 0, 2, 3, 3]])
    assert lines.read(np.eye(4)[steps], ["", "a", "b", " "]) == ["aab", "ab"]


@pytest.mark.parametrize(("found", "count"), [("abc", 3), ("a b c", 3), ("axc", 2), ("", 0)])
def test_characters_count_as_right_in_order_and_without_spaces(
    lines: ModuleType, found: str, count: int
) -> None:
    assert lines.right(found, "ab c") == count
