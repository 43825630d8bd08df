"""Features in an order that suits N:M: exact, and only where the graph allows it."""

from __future__ import annotations

import numpy as np

import pruneopt as po
from pruneopt.passes.sparsity.patterns import parse_pattern
from pruneopt.passes.sparsity.permutation import dealt
from tests import models
from tests.sparsity.test_sparsify import data, entry, moved, weights


def test_each_group_gets_one_of_each_rank() -> None:
    totals = np.array([8.0, 7, 6, 5, 4, 3, 2, 1, 0.5])
    order = dealt(totals, parse_pattern("2:4"))
    assert sorted(order) == list(range(9))
    assert order.tolist() == [0, 3, 4, 7, 1, 2, 5, 6, 8]


def lopsided() -> po.Model:
    """A hidden layer whose large neurons sit side by side, behind a norm of the residual width."""
    proto = models.transformer(layers=1)
    arrays = {t.name: t for t in proto.graph.initializer}
    up = next(name for name, t in arrays.items() if list(t.dims) == [64, 256])
    array = np.frombuffer(arrays[up].raw_data, np.float32).reshape(64, 256).copy()
    array[:, :64] *= 10
    arrays[up].raw_data = array.tobytes()
    return models.loaded(proto)


def test_it_is_exact_and_helps() -> None:
    model = lopsided()
    cut = "sparsify{pattern=2:4, method=ria, permute="
    plain, better = (
        po.prune(model, passes=f"{cut}{flag}}}", calib=data(model), timed=False) for flag in ("false", "true")
    )
    assert entry(better)["reordered"] > 0.01
    assert "reordered" not in entry(plain)
    assert moved(better) < 0.95 * moved(plain)


def test_inputs_of_the_model_stay_in_order() -> None:
    model = lopsided()
    result = po.prune(model, passes="sparsify{pattern=2:4, method=magnitude}", timed=False)
    before, after = weights(model)["embed"], weights(result.model)["embed"]
    norms = np.linalg.norm(before, axis=1)
    assert before.shape == after.shape
    assert (np.linalg.norm(after, axis=1) <= norms + 1e-6).all()  # rows are those of the inputs, in place
    assert not (after == before).all()


def test_without_groups_nothing_moves() -> None:
    model = lopsided()
    result = po.prune(model, passes="sparsify{sparsity=0.5, method=magnitude}", timed=False)
    assert "reordered" not in entry(result)


def test_a_dimension_of_one_entry_stays_in_order() -> None:
    """A map of one channel beside one of many, as segmentation nets end in."""
    b = models.Builder()
    x = b.node("Relu", b.node("Conv", "x", b.weight(64, 16, 3, 3)))
    large = np.random.default_rng(0).standard_normal((24, 64, 1, 1)) * np.repeat([10, 1], [32, 32]).reshape(
        -1, 1, 1
    )
    b.node("Conv", x, b.value(large, np.float32), outputs=["y"])
    b.node("Conv", x, b.weight(1, 64, 1, 1), outputs=["z"])
    model = models.loaded(b.model({"x": ["n", 16, 8, 8]}, {"y": ["n", 24, 6, 6], "z": ["n", 1, 6, 6]}))
    assert entry(po.prune(model, passes="sparsify{pattern=2:4}", timed=False))["reordered"] > 0
