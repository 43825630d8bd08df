"""Error curves of wide windows: of more features than are inverted, only the directions that matter stay."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from pruneopt.analysis.groups import find_groups
from pruneopt.analysis.infer import analyse
from pruneopt.api import make_context
from pruneopt.arrays import Array
from pruneopt.passes.planning import curves
from pruneopt.passes.planning.curves import Curve
from pruneopt.passes.statistics.evidence import gather
from tests import models

CHANNELS, SIDE = 16, 12


def net() -> models.Builder:
    b = models.Builder()
    pads = {"pads": [1, 1, 1, 1]}
    y = b.node("Relu", b.node("Conv", "x", b.weight(CHANNELS, 3, 1, 1)))
    b.node("Conv", y, b.weight(6, CHANNELS, 3, 3), outputs=["y"], **pads)
    return b


def curve(draw: Callable[[np.random.Generator], Array]) -> Curve:
    """Of the channels between both convolutions, on images that `draw` makes."""
    model = models.loaded(net().model({"x": ["n", 3, SIDE, SIDE]}, {"y": ["n", 6, SIDE, SIDE]}))
    rng = np.random.default_rng(0)
    context = make_context(model, [{"x": draw(rng).astype(np.float32)} for _ in range(8)])
    analysis = analyse(model, context.observation(model))
    (group,) = (g for g in find_groups(analysis) if g.size == CHANNELS)
    found = curves.curve_of(group, gather(analysis, [group.atom], context, context.calibration))
    assert found is not None
    return found


def noise(rng: np.random.Generator) -> Array:
    return rng.standard_normal((4, 3, SIDE, SIDE))


def smooth(rng: np.random.Generator) -> Array:
    """Each image of three colours is nearly a constant one."""
    return rng.standard_normal((4, 3, 1, 1)) + 0.05 * noise(rng)


@pytest.mark.parametrize(("draw", "least", "most"), [(smooth, 0.35, 1.05), (noise, 0.8, 1.7)])
def test_few_directions_of_windows_give_much_the_same_curve(
    draw: Callable[[np.random.Generator], Array], least: float, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = curve(draw)
    monkeypatch.setattr(curves, "FEATURES", 4 * CHANNELS)  # of nine in each window
    narrow = curve(draw)
    assert narrow.error[0] == 0
    assert (np.diff(narrow.error) >= 0).all()
    share = narrow.error[1:-1] / whole.error[1:-1]
    assert share.min() > least
    assert share.max() < most
    assert abs(share[10:] - 1).max() < 0.25  # where it tells most
