"""Windows of many features are fitted by their lowest frequencies, and the rest of the weight stays."""

from __future__ import annotations

import numpy as np
import pytest

import pruneopt as po
from pruneopt.analysis.infer import analyse
from pruneopt.api import make_context
from pruneopt.arrays import Array
from pruneopt.model import Model
from pruneopt.passes.statistics import consumers
from pruneopt.passes.statistics.consumers import Consumer, find_consumers
from tests import models

CHANNELS, SIDE = 16, 12


def net() -> Model:
    b = models.Builder()
    y = b.node("Relu", b.node("Conv", "x", b.weight(CHANNELS, 3, 3, 3), pads=[1, 1, 1, 1]))
    b.node("Conv", y, b.weight(6, CHANNELS, 3, 3), outputs=["y"], pads=[1, 1, 1, 1])
    return models.loaded(b.model({"x": ["n", 3, SIDE, SIDE]}, {"y": ["n", 6, SIDE, SIDE]}))


def last(model: Model) -> Consumer:
    return find_consumers(analyse(model, make_context(model).observation(model)))[-1]


@pytest.mark.parametrize("most", [1, 4, 8])
def test_low_frequencies_stand_for_windows(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumers, "FEATURES", most * CHANNELS)
    whole = last(net())
    narrow = whole.narrow()
    assert (narrow.window, narrow.features) == (most, most * CHANNELS)
    rng = np.random.default_rng(0)
    flat = np.repeat(rng.standard_normal((1, 5, CHANNELS)), 9, axis=2)  # windows of one value
    np.testing.assert_allclose(
        narrow.seen(flat) @ narrow.matrix[0].T, flat @ whole.matrix[0].T, rtol=1e-6, atol=1e-6
    )
    np.testing.assert_allclose(narrow.stored(narrow.matrix), whole.stored(whole.matrix), rtol=1e-6)
    wanted = rng.standard_normal(narrow.matrix.shape)
    stored = narrow.stored(wanted)
    np.testing.assert_allclose(narrow.as_matrix(stored), wanted, rtol=1e-4, atol=1e-5)
    moved = whole.as_matrix(stored) - whole.matrix
    assert np.linalg.matrix_rank(moved.reshape(-1, 9), tol=1e-4) == most


def test_few_features_are_seen_whole() -> None:
    whole = last(net())
    assert whole.narrow() is whole


def smooth(seed: int, count: int) -> list[dict[str, Array]]:
    """Images of which neighbours are much alike."""
    rng = np.random.default_rng(seed)
    coarse = [rng.standard_normal((4, 3, SIDE // 4, SIDE // 4)) for _ in range(count)]
    return [{"x": np.kron(c, np.ones((4, 4))).astype(np.float32)} for c in coarse]


def test_what_is_fitted_to_few_frequencies_is_nearly_as_good(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen, held = net(), smooth(0, 10), smooth(1, 4)

    def damage(passes: str) -> float:
        made = po.prune(model, passes=passes, calib=seen, timed=False).model
        return float(po.compare(model, made, calib=held)["fidelity"]["y"]["rel_l2"])

    cut, whole = damage("width{macs=0.6}"), damage("width{macs=0.6}, repair")
    monkeypatch.setattr(consumers, "FEATURES", 4 * CHANNELS)  # of nine in each window
    narrow = damage("width{macs=0.6}, repair")
    print(cut, whole, narrow)
    assert narrow < 0.6 * cut
    assert narrow < 1.3 * whole
