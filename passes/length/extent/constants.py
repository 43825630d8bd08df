"""Constants that belong to places: position embeddings are interpolated, the positions of a text are cut."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.analysis.infer import Analysis, ConstantUse
from pruneopt.analysis.tokens import SCORES, same
from pruneopt.model import values
from pruneopt.passes.length.extent.matrices import WAYS, apply, matrix
from pruneopt.passes.length.extent.pairs import resampled_pairs
from pruneopt.passes.length.extent.settle import Fixed, Settled

PLAIN = {"Add", "Sub", "Mul", "Div", "Where", "Concat", "Expand", "And", "Or", "Equal", "Less", "Greater"}
FAR = 8  # nodes on the way from a sum to a softmax


def resampled(analysis: Analysis, settled: Settled) -> Iterator[tuple[ConstantUse, gs.Constant]]:
    """Every constant that has another number of places, and what takes its place there.

    Raises:
        Fixed: it is more than one value for each place that can be interpolated.
    """
    for use in analysis.uses:
        if any(settled.touched(axis) for axis in use.axes):
            yield use, _resampled(use, settled)


def _resampled(use: ConstantUse, settled: Settled) -> gs.Constant:
    array = values(use.constant)
    pair = _pair(use, settled)
    if pair is not None:
        found = resampled_pairs(array, pair, use.axes[pair[0]], settled)
        if found is not None:
            return gs.Constant(use.constant.name, found)
    for dim, axis in enumerate(use.axes):
        if not settled.touched(axis):
            continue
        if (array == array.take([0], dim)).all():  # the same everywhere
            array = np.repeat(array.take([0], dim), settled.size(axis), dim)
            continue
        if settled.mixes(axis):
            _check(use)
        array = apply(array, dim, matrix(axis, settled, {role: way for role, (_, way) in WAYS.items()}))
    return gs.Constant(f"{use.constant.name}", np.ascontiguousarray(array))


def _pair(use: ConstantUse, settled: Settled) -> tuple[int, int] | None:
    """Two dimensions that are the same places, not only fewer at the end, and no others that change."""
    dims = [i for i, axis in enumerate(use.axes) if settled.touched(axis)]
    if (
        len(dims) != 2
        or not same(use.axes[dims[0]], use.axes[dims[1]])
        or not settled.mixes(use.axes[dims[0]])
    ):
        return None
    return dims[0], dims[1]


def _check(use: ConstantUse) -> None:
    where = f"the constant '{use.constant.name}' ({use.node.op} '{use.node.name}')"
    if use.node.op not in PLAIN:
        raise Fixed(f"{where} belongs to its places")
    if use.node.op not in ("Concat", "Expand") and steers(use.node):
        raise Fixed(f"{where} is a bias or mask for pairs of places of an attention")


def steers(node: gs.Node) -> bool:
    """Whether what a node makes becomes the scores of an attention, by way of sums and masks only."""
    waiting = [(node, 0)]
    while waiting:
        each, far = waiting.pop()
        for reader in (r for t in each.outputs for r in t.outputs):
            if reader.op == "Softmax":
                return True
            if reader.op in SCORES and far < FAR:
                waiting.append((reader, far + 1))
    return False
