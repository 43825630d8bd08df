"""What each method makes of a matrix: zeros in the pattern, and errors in the order that the papers say."""

from __future__ import annotations

import numpy as np
import pytest

from pruneopt.arrays import Array
from pruneopt.errors import UsageError
from pruneopt.passes.sparsity.gram import Gram
from pruneopt.passes.sparsity.methods import METHODS, find_method
from pruneopt.passes.sparsity.methods.sparsegpt import _costs
from pruneopt.passes.sparsity.patterns import parse_pattern

PATTERNS = ("unstructured", "16x1", "1x16", "2:4", "2:4x16", "3:8", "4x4")
SHAPE = (40, 150)  # neither is a multiple of 16, and the features fill more than one block


def layer(seed: int = 0) -> tuple[Array, Gram]:
    """A weight, and correlated features some of which are much larger than others."""
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((SHAPE[1], SHAPE[1])) / np.sqrt(SHAPE[1])
    rows = rng.standard_normal((2000, SHAPE[1])) @ (mix * np.exp(rng.standard_normal(SHAPE[1])))
    moment = rows.T @ rows / len(rows)
    weight = (rng.standard_normal(SHAPE) / np.sqrt(SHAPE[1])).astype(np.float32)
    return weight, Gram(moment, np.diagonal(moment).copy())


@pytest.mark.parametrize("text", PATTERNS)
@pytest.mark.parametrize("name", METHODS)
def test_zeros_are_in_the_pattern(name: str, text: str) -> None:
    weight, gram = layer()
    pattern, method = parse_pattern(text), METHODS[name]
    sparsity = pattern.share or 0.6
    found = method.prune(weight, gram, pattern, sparsity)
    assert found.shape == weight.shape
    assert found.dtype == weight.dtype
    assert pattern.holds(found)
    assert abs(pattern.zero_units(found) - sparsity) <= pattern.span / SHAPE[1] + 1e-9
    assert np.array_equal(found, method.prune(weight, gram, pattern, sparsity))
    if not method.refits:
        assert np.array_equal(found[found != 0], weight[found != 0])


@pytest.mark.parametrize("text", PATTERNS)
def test_data_helps_and_refitting_helps_more(text: str) -> None:
    weight, gram = layer(3)
    pattern = parse_pattern(text)
    error = {
        name: gram.error(weight - method.prune(weight, gram, pattern, 0.5))
        for name, method in METHODS.items()
    }
    assert error["wanda"] < 0.9 * error["magnitude"]
    assert error["ria"] < 0.9 * error["magnitude"]
    assert error["sparsegpt"] < 0.9 * error["wanda"]
    assert error["admm"] < error["sparsegpt"]


@pytest.mark.parametrize("name", ["wanda", "sparsegpt", "admm"])
def test_a_method_that_needs_data_says_so(name: str) -> None:
    with pytest.raises(UsageError, match="--calib"):
        METHODS[name].prune(layer()[0], None, parse_pattern("2:4"), 0.5)


def test_relative_importance_needs_none() -> None:
    weight, _ = layer()
    weight[:, 0] *= 1e-3  # small in size, all that its column has
    found = METHODS["ria"].prune(weight, None, parse_pattern("unstructured"), 0.5)
    assert (found[:, 0] != 0).sum() > 0
    assert (METHODS["magnitude"].prune(weight, None, parse_pattern("unstructured"), 0.5)[:, 0] == 0).all()


def test_unknown_method() -> None:
    with pytest.raises(UsageError, match="sparsegpt"):
        find_method("sparsegtp")


def test_the_root_inverts_the_damped_moments() -> None:
    _, gram = layer()
    u = gram.root.astype(np.float64)
    assert np.allclose(u, np.triu(u))
    assert np.allclose(u.T @ u @ gram.damped, np.eye(len(u)), atol=1e-3)


@pytest.mark.parametrize("width", [1, 5])
def test_a_unit_costs_what_least_squares_leaves(width: int) -> None:
    """Taking the first features out and refitting the later ones, worked out directly."""
    weight, gram = layer()
    left = weight.T.astype(np.float64)
    costs = _costs(left[:width], gram.root.astype(np.float64)[:width, :width], width).sum(0)
    moment, gone, rest = gram.damped, slice(0, width), slice(width, None)
    moved = -np.linalg.solve(moment[rest, rest], moment[rest, gone] @ left[gone])
    change = np.concatenate([left[gone], moved])
    wanted = np.einsum("fo,fg,go->o", change, moment, change)
    assert np.allclose(costs, wanted, rtol=1e-3)


def test_features_without_variance_do_no_harm() -> None:
    weight, gram = layer()
    moment = gram.matrix.copy()
    moment[:, 7] = moment[7] = 0
    for name in ("sparsegpt", "admm"):
        found = METHODS[name].prune(
            weight, Gram(moment, np.diagonal(moment)), parse_pattern("unstructured"), 0.5
        )
        assert np.isfinite(found).all()
        assert np.abs(found).max() < 100 * np.abs(weight).max()
