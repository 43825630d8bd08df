"""A model that loses every other one of its eight hidden neurons: what proofs are tried on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pruneopt.analysis.groups import find_groups
from pruneopt.analysis.infer import analyse
from pruneopt.arrays import Feeds
from pruneopt.backends.ort import OnnxRuntime
from pruneopt.model import Model
from pruneopt.passes.context import Context
from pruneopt.passes.rewriting.masked import Masked
from pruneopt.passes.rewriting.shrink import shrink


def halved(whole: Model, feeds: Sequence[Feeds]) -> tuple[Model, Masked, Context]:
    """What is left of `whole`, the claim, and a context with `feeds`."""
    context = Context(OnnxRuntime(), feeds)
    analysis = analyse(whole, context.observation(whole))
    atom = next(g.atom for g in find_groups(analysis) if g.size == 8)
    masks = {atom: np.arange(8) % 2 == 0}
    return shrink(analysis, masks), Masked(analysis, masks), context


def drawn(*counts: int) -> list[Feeds]:
    """Batches of so many rows of three random numbers each, for an input `x`."""
    rng = np.random.default_rng(1)
    return [{"x": rng.standard_normal((n, 3)).astype(np.float32)} for n in counts]
