"""Witnesses in computed shapes."""

from __future__ import annotations

import numpy as np

from pruneopt import api
from pruneopt.analysis.groups import find_groups
from pruneopt.analysis.infer import analyse
from pruneopt.passes.base import prove
from pruneopt.passes.rewriting.masked import Masked
from pruneopt.passes.rewriting.shrink import shrink
from pruneopt.passes.simplify import Simplify
from pruneopt.passes.width import best
from tests import models


def test_an_inferred_entry_of_a_computed_target_stays_inferred() -> None:
    """Heads merge into the batch by [-1, length, size], the length computed; half of the heads go."""
    b = models.Builder()
    shape = b.node("Shape", "x")
    length = b.node("Slice", shape, b.value([1]), b.value([2]))
    batch = b.node("Slice", shape, b.value([0]), b.value([1]))
    heads = b.node("Concat", batch, length, b.value([4]), b.value([8]), axis=0)
    y = b.node("Reshape", b.node("MatMul", "x", b.weight(16, 32)), heads)
    y = b.node("Transpose", y, perm=[0, 2, 1, 3])
    merged = b.node("Reshape", y, b.node("Concat", b.value([-1]), length, b.value([8]), axis=0))
    y = b.node(
        "Reshape", b.node("Relu", merged), b.node("Concat", batch, b.value([4]), length, b.value([8]), axis=0)
    )
    y = b.node("Reshape", b.node("Transpose", y, perm=[0, 2, 1, 3]), b.value([0, 0, -1]))
    b.node("MatMul", y, b.weight(32, 5), outputs=["y"])
    model = models.loaded(b.model({"x": ["n", "s", 16]}, {"y": ["n", "s", 5]}))
    context = api.make_context(model)
    simple = Simplify().run(model, context).model
    analysis = analyse(simple, context.observation(simple))
    (group,) = (g for g in find_groups(analysis) if g.size == 4)
    masks = {group.atom: best(np.arange(4.0), 2)}
    assert prove(shrink(analysis, masks), Masked(analysis, masks), context).max_rel_error < 1e-5
