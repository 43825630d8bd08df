"""Damage at the outputs: shares of a variance, and divergences of distributions."""

from __future__ import annotations

import numpy as np
import pytest

from pruneopt.arrays import Array
from pruneopt.passes.statistics.damage import BLOCK, Yardstick
from tests import models


def test_squared_distance_as_a_share_of_the_variance() -> None:
    rng = np.random.default_rng(0)
    dense = [{"y": (1000 + rng.normal(size=(3, size))).astype(np.float32)} for size in (5, BLOCK + 7)]
    found = [{"y": each["y"] + np.float32(0.5)} for each in dense]
    whole = np.concatenate([each["y"].reshape(-1) for each in dense]).astype(np.float64)
    assert Yardstick(dense).damage(found) == pytest.approx(0.25 / whole.var(), rel=1e-6)


def test_divergence_of_each_row() -> None:
    p, q = np.array([[[0.5, 0.5], [1.0, 0.0]]], np.float32), np.array([[[0.9, 0.1], [1.0, 0.0]]], np.float32)
    wanted = (0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(0.5 / 0.1)) / 2
    assert Yardstick([{"p": p}], frozenset({"p"})).damage([{"p": q}]) == pytest.approx(wanted, rel=1e-6)
    assert Yardstick([{"p": p}], frozenset({"p"})).damage([{"p": p}]) == 0.0


def test_outputs_without_variance_do_not_divide_by_nothing() -> None:
    same = [{"y": np.ones((2, 3), np.float32)}]
    assert Yardstick(same).damage(same) == 0.0


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("spread", [False, True])
def test_a_softmax_that_is_written_out_is_one_along_the_last_axis(axis: int, spread: bool) -> None:
    b = models.Builder()
    x = b.node("Exp", "x")
    total = b.node("ReduceSum", x, b.value([axis]), keepdims=int(not spread))
    if spread:
        total = b.node("Expand", b.node("Unsqueeze", total, b.value([axis])), b.node("Shape", x))
    b.node("Div", x, total, outputs=["p"])
    b.node("Div", "x", total, outputs=["q"])
    model = models.loaded(b.model({"x": ["n", 4]}, {"p": ["n", 4], "q": ["n", 4]}))
    dense = [{"p": np.ones((1, 4), np.float32), "q": np.ones((1, 4), np.float32)}]
    assert Yardstick.of(model.graph, dense).probabilities == (set() if axis == 0 else {"p"})


def test_scores_are_compared_as_what_a_softmax_makes_of_them() -> None:
    rng = np.random.default_rng(0)
    z = [{"z": rng.normal(size=(2, size, 7)).astype(np.float32)} for size in (3, BLOCK // 7)]
    found = [{"z": each["z"] * 2 + 5} for each in z]
    p, q = ([{"z": softmax(each["z"].astype(np.float64))} for each in some] for some in (z, found))
    wanted = Yardstick(p, frozenset({"z"})).damage(q)
    moved = Yardstick(z).damage(found)
    assert Yardstick(z, scores={"z": 4.0}).damage(found) - moved / 4 == pytest.approx(wanted, rel=1e-6)


def softmax(z: Array) -> Array:
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


@pytest.mark.parametrize("head", ["Gemm", "MatMul", "Add", "Relu"])
def test_what_a_linear_layer_makes_are_scores_where_they_tell_samples_apart(head: str) -> None:
    b = models.Builder()
    weight, bias = b.weight(4, 10), b.weight(10)
    if head == "Gemm":
        b.node("Gemm", "x", weight, bias, outputs=["z"])
    elif head == "MatMul":
        b.node("MatMul", "x", weight, outputs=["z"])
    else:
        made = b.node("MatMul", "x", weight)
        b.node("Add", made, bias, outputs=["z"]) if head == "Add" else b.node("Relu", made, outputs=["z"])
    model = models.loaded(b.model({"x": ["n", 4]}, {"z": ["n", 10]}))
    classes = 8 * np.eye(10, dtype=np.float32)[np.arange(40) % 10]
    scores = Yardstick.of(model.graph, [{"z": classes[:20]}, {"z": classes[20:]}]).scores
    assert scores == ({} if head == "Relu" else {"z": pytest.approx(10, rel=0.05)})


@pytest.mark.parametrize("shapes", [[()], [(2, 12), (2, 13)], [(0, 12)]])
def test_outputs_that_have_no_rows_of_one_length_are_no_scores(shapes: list[tuple[int, ...]]) -> None:
    b = models.Builder()
    b.node("MatMul", "x", b.weight(4, 12), outputs=["z"])
    model = models.loaded(b.model({"x": ["n", 4]}, {"z": ["n", 12]}))
    dense = [{"z": np.ones(shape, np.float32)} for shape in shapes]
    assert Yardstick.of(model.graph, dense).scores == {}
