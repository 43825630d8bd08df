"""What rounding alone does to a model: how far its tensors move when all that goes in does by a last bit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pruneopt.arrays import Array
from pruneopt.model import Model, constants, values

if TYPE_CHECKING:
    from pruneopt.arrays import Feeds
    from pruneopt.passes.context import Context

BIT = 2.0**-23  # of a float32


def trembling(
    model: Model, feeds: Feeds, names: Iterable[str], context: Context, seed: int = 0
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tensors `names` as they are, and once every float32 weight and input has moved by its last bit, up or down.

    Two right ways to compute a tensor differ about as much as these two do; where they differ more than that by
    orders, one is wrong (forward error and conditioning: Higham, Accuracy and Stability of Numerical Algorithms).
    """
    rng, names = np.random.default_rng(seed), list(names)
    before = context.session(model, names, optimize=False).run(feeds)
    nudged = model.copy()
    for constant in constants(nudged.graph):
        if values(constant).dtype == np.float32:
            constant.values = _nudge(values(constant), rng)
    after = context.session(nudged, names, optimize=False).run(_moved(feeds, rng))
    return before, after


def _moved(feeds: Mapping[str, Array], rng: np.random.Generator) -> dict[str, Array]:
    return {n: _nudge(a, rng) if a.dtype == np.float32 else a for n, a in feeds.items()}


def _nudge(array: Array, rng: np.random.Generator) -> Array:
    """Each entry times 1 + BIT or 1 - BIT; whole numbers, as exponents and the lowest number of masks, are exact.

    A row at a time, as weights may be large.
    """
    moved = np.empty_like(array)
    for row, out in zip(np.atleast_2d(array), np.atleast_2d(moved), strict=True):
        with np.errstate(over="ignore", invalid="ignore"):
            nudged = row * (1 + rng.choice(np.array([-BIT, BIT], np.float32), row.shape))
            out[...] = np.where(np.rint(row) == row, row, nudged)
    return moved
