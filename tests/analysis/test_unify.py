"""The laws of unification: what is unified has equal masks, whatever the masks of the atoms are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruneopt.analysis.axes import (
    Axis,
    Kind,
    Reason,
    atoms,
    couple,
    factors,
    find,
    freeze,
    is_frozen,
    show,
)
from pruneopt.analysis.masks import mask_of, size_of
from pruneopt.analysis.unify import Clash, unify
from tests.analysis.strategies import Recipe, masks_of, pairs, read

SEEDS = st.integers(0, 2**16)


def unified(a: Axis, b: Axis) -> bool:
    try:
        unify(a, b)
    except Clash:
        return False
    return True


def built(pair: tuple[Recipe, Recipe]) -> tuple[Axis, Axis]:
    known: dict[tuple[int, tuple[int, ...]], Axis] = {}
    return pair[0].build(known), pair[1].build(known)


@given(pairs(), SEEDS)
def test_unified_axes_have_equal_masks(pair: tuple[Recipe, Recipe], seed: int) -> None:
    a, b = built(pair)
    if unified(a, b):
        masks = masks_of([a, b], seed)
        for run in range(len(a.size)):
            np.testing.assert_array_equal(mask_of(a, masks, run), mask_of(b, masks, run))


@given(pairs(), SEEDS)
def test_sizes_stay_and_agree_with_structure(pair: tuple[Recipe, Recipe], seed: int) -> None:
    a, b = built(pair)
    before = a.size
    unified(a, b)  # even where it clashes half way
    for axis in (a, b):
        assert axis.size == find(axis).size == before
        for run, size in enumerate(before):
            assert size_of(axis, {}, run) == mask_of(axis, {}, run).size == size


@given(pairs("product") | pairs("concat"))
def test_unify_is_idempotent(pair: tuple[Recipe, Recipe]) -> None:
    """Where products and concatenations are nested, a second time may refine further."""
    a, b = pair[0].build(None), pair[1].build(None)
    if unified(a, b):
        once = show(a), [id(x) for x in atoms(a)]
        unify(a, b)
        unify(b, a)
        assert (show(a), [id(x) for x in atoms(a)]) == once


@given(pairs(), SEEDS)
def test_unify_is_symmetric(pair: tuple[Recipe, Recipe], seed: int) -> None:
    a, b = built(pair)
    c, d = built(pair)
    assert unified(a, b) == unified(d, c)
    if unified(a, b) and unified(c, d):
        assert show(a) == show(c)
        assert show(b) == show(d)
        assert pattern(a, b) == pattern(c, d)


def pattern(*axes: Axis) -> list[int]:
    """Which atoms are one: the position where each was seen first."""
    seen: dict[int, int] = {}
    return [seen.setdefault(id(atom), len(seen)) for axis in axes for atom in atoms(axis)]


@given(pairs())
def test_flags_reach_the_other_side(pair: tuple[Recipe, Recipe]) -> None:
    a, b = built(pair)
    freeze(a, Reason("why"))
    couple(b, Reason("norm"))
    if unified(a, b):
        assert all(x.frozen for x in atoms(b) if max(x.size) > 1)
        assert all(x.coupled for x in atoms(a) if max(x.size) > 1)


@given(pairs(), SEEDS)
def test_a_clash_leaves_masks_consistent(pair: tuple[Recipe, Recipe], seed: int) -> None:
    """Freezing both sides of a clash is sound: nothing of either can go."""
    a, b = built(pair)
    if not unified(a, b):
        freeze(a, Reason("clash"))
        freeze(b, Reason("clash"))
        assert is_frozen(a)
        assert is_frozen(b)


@pytest.mark.parametrize(
    ("left", "right", "both"),
    [
        ("768", "(12 64)", "(12 64)"),
        ("(12 64)", "(24 32)", "(12 2 32)"),
        ("(2 6)", "(4 3)", "(2 2 3)"),
        ("12", "4 | 8", "4 | 8"),
        ("2 | 4", "4 | 2", "2 | 2 | 2"),
        ("768 | 768 | 768", "(3 12 64)", "(12 64) | (12 64) | (12 64)"),
        ("2304", "(3 768)", "(3 768)"),
        ("((2 | 4) 5)", "(6 5)", "((2 | 4) 5)"),
        ("10 | 20", "(6 5)", "(2 5) | (4 5)"),
        ("10 | 20", "(3 2 5)", "(2 5) | (2 2 5)"),
        ("2/3", "2/3", "2/3"),
        ("(2/3 12)", "24/36", "(2/3 12)"),
        ("(2/3 12)", "(4/6 6)", "(2/3 2 6)"),
        ("1", "1", "1"),
        ("7", "(7 1)", "7"),
    ],
)
def test_unify_golden(left: str, right: str, both: str) -> None:
    a, b = read(left), read(right)
    unify(a, b)
    assert both in (show(a), show(b))  # the other may say the same with a cut factor: ((2 | 4) 5)


@pytest.mark.parametrize(
    ("left", "right", "why"),
    [
        ("6", "4", "sizes 6 and 4 differ"),
        ("(2 6)", "(3 4)", "6 and 4 have no common factor"),
        ("(2 3)", "(3 2)", "no common factor"),
        ("5 | 7", "(3 4)", "does not divide every part"),
        ("2/3", "3/2", "differ"),
        ("2/3 | 4/3", "3/2 | 3/4", "cannot be ordered"),
    ],
)
def test_clash_golden(left: str, right: str, why: str) -> None:
    a, b = read(left), read(right)
    with pytest.raises(Clash, match=why):
        unify(a, b)
    assert a.size == find(a).size


def test_an_axis_never_contains_itself() -> None:
    x = Axis((4,))
    around = Axis((4,), Kind.PRODUCT, (x, Axis((1,))))
    with pytest.raises(Clash, match="contain itself"):
        unify(x, around)
    assert show(x) == "4"


def test_swapped_products_of_one_axis_become_squares() -> None:
    """(x 2) = (2 x) for x of 4: no self-containment, only more structure."""
    x = Axis((4,))
    a, b = read("(x 2)", x=x), read("(2 x)", x=x)
    unify(a, b)
    assert show(x) == "(2 2)"
    assert len(set(map(id, atoms(a) + atoms(b)))) == 1


def test_rotated_concatenations_tie_everything() -> None:
    """x | 2 = 2 | x for x of 3."""
    x = Axis((3,))
    a, b = read("x | 2", x=x), read("2 | x", x=x)
    unify(a, b)
    assert show(a) == show(b) == "1 | 1 | 1 | 1 | 1"


def test_fused_query_key_value() -> None:
    """(3 h d) cut into thirds: the three parts are one axis, as the product says."""
    q, k, v, h, d = (Axis((n,)) for n in (768, 768, 768, 12, 64))
    unify(read("q | k | v", q=q, k=k, v=v), read("(3 h d)", h=h, d=d))
    assert find(factors(q)[0]) is find(factors(v)[0]) is h
    assert find(factors(q)[1]) is find(factors(k)[1]) is d


def test_cutting_a_head_axis_keeps_the_width() -> None:
    x = read("(12 64)")
    unify(read("256 | 512"), x)
    assert show(x) == "((4 | 8) 64)"
