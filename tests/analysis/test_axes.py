"""What axes are made of, and what masks of their atoms make of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruneopt.analysis.axes import (
    Axis,
    Kind,
    Reason,
    atoms,
    concat,
    factors,
    find,
    freeze,
    is_frozen,
    parts,
    product,
    show,
)
from pruneopt.analysis.groups import granule_of
from pruneopt.analysis.masks import mask_of, pull_back, size_of
from tests.analysis.strategies import SIZES, Recipe, masks_of, read, recipes

SEEDS = st.integers(0, 2**16)


@given(SIZES.flatmap(recipes), SEEDS)
def test_size_is_the_number_of_kept_entries(recipe: Recipe, seed: int) -> None:
    axis = recipe.build({})
    masks = masks_of([axis], seed)
    kept = {atom: int(mask.sum()) for atom, mask in masks.items()}
    for run in range(len(axis.size)):
        assert size_of(axis, kept, run) == mask_of(axis, masks, run).sum()


@given(SIZES.filter(lambda s: len(set(s)) == 1).flatmap(recipes), SEEDS)
def test_pull_back_is_the_transpose_of_the_mask(recipe: Recipe, seed: int) -> None:
    """Entry i of the result is the sum over the axis entries that entry i of the atom alone takes away."""
    axis = recipe.build({})
    scores = np.random.default_rng(seed).random(axis.size[0])
    for atom in dict.fromkeys(atoms(axis)):
        found = pull_back(axis, atom, scores)
        for i in range(atom.size[0]):
            keep = np.arange(atom.size[0]) != i
            gone = ~mask_of(axis, {atom: keep})
            repeats = entries_per_removal(axis, atom, i)
            assert found[i] == pytest.approx((scores * repeats)[gone].sum())


def entries_per_removal(axis: Axis, atom: Axis, i: int) -> npt.NDArray[np.float64]:
    """How many factors of each axis entry point at entry i of the atom (more than one in a square)."""
    axis = find(axis)
    if axis is atom:
        return np.asarray(np.arange(atom.size[0]) == i, np.float64)
    if axis.kind is Kind.ATOM:
        return np.zeros(axis.size[0])
    if axis.kind is Kind.CONCAT:
        return np.concatenate([entries_per_removal(p, atom, i) for p in parts(axis)])
    total: npt.NDArray[np.float64] = np.zeros(1)
    for factor in factors(axis):
        inner = entries_per_removal(factor, atom, i)
        total = (total[:, None] + inner[None, :]).reshape(-1)
    return np.asarray(total, np.float64)


def test_product_is_flat_and_without_units() -> None:
    assert show(read("(2 (3 4) 1)")) == "(2 3 4)"
    assert show(read("(1 7)")) == "7"
    assert product([], 1).size == (1,)
    assert show(product([], 1)) == "1"


def test_concat_is_flat_and_without_empty_parts() -> None:
    assert show(read("(2 | 3) | 4")) == "2 | 3 | 4"
    assert show(read("0 | 5 | 0")) == "5"
    assert show(concat([Axis((0,)), Axis((0,))])) == "0"


def test_dynamic_axes_are_never_prunable_but_their_static_factors_are() -> None:
    x = read("(2/3 12)")
    assert is_frozen(read("2/3"))
    assert not is_frozen(x)


@pytest.mark.parametrize(
    ("text", "granule"),
    [
        ("a", 1),
        ("(a 64)", 64),
        ("(64 a)", 1),
        ("(2 a 3 4)", 12),
        ("a | 7", 1),
        ("(a 5) | (7 5)", 5),
        ("a | a", 2),
        ("(2 (a | a))", 2),
    ],
)
def test_granule(text: str, granule: int) -> None:
    a = Axis((6,))
    assert granule_of(read(text, a=a), a) == granule


def test_first_reason_stays() -> None:
    x = read("(2 3)")
    freeze(x, Reason("one", "Conv 'a'"))
    freeze(x, Reason("two"))
    assert {str(a.frozen) for a in atoms(x)} == {"one (Conv 'a')"}
