"""Linear maps in the place of dropped blocks, fitted on calibration data by ridge least squares.

Dropped blocks that follow one another get one map together. A map is kept only where the model's outputs are
closer to the original's with it, on data that it was not fitted on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.analysis.blocks import Block, Blocks, bypass_of
from pruneopt.arrays import Array, Feeds
from pruneopt.passes.context import Context
from pruneopt.passes.depth.bypass import Amends, bypass, target
from pruneopt.passes.depth.judge import Judge, last_of_runs
from pruneopt.passes.depth.study import feature_dimension, rows_of
from pruneopt.passes.depth.switches import Inserter
from pruneopt.passes.statistics.leastsquares import refit, ridge
from pruneopt.passes.statistics.moments import Moments
from pruneopt.passes.statistics.stream import valid_tokens

RIDGES = (0.02, 0.2, 2.0)  # pulls towards the identity, of which held-out data chooses


@dataclass(frozen=True)
class Linear:
    """y = x W + b along one dimension.

    Attributes:
        weight: shape [features, features].
        bias: shape [features].
        dim: the dimension of the features.
        rank: dimensions of the tensor.
        dtype: element type of the tensor.
    """

    weight: Array
    bias: Array
    dim: int
    rank: int
    dtype: Any = np.float32

    def nodes(self, entry: gs.Tensor, name: str) -> list[gs.Node]:
        """MatMul and Add where the features are last, else a convolution of one entry; the last makes the result."""
        out, weight, bias = gs.Variable(name), self.weight.astype(self.dtype), self.bias.astype(self.dtype)
        if self.dim == self.rank - 1:
            inner = gs.Variable(f"{name}_unbiased")
            matrix = gs.Constant(f"{name}_weight", weight)
            return [
                gs.Node("MatMul", inner.name, {}, [entry, matrix], [inner]),
                gs.Node("Add", name, {}, [inner, gs.Constant(f"{name}_bias", bias)], [out]),
            ]
        kernel = weight.T.reshape(*weight.shape, *[1] * (self.rank - 2))
        inputs = [entry, gs.Constant(f"{name}_weight", kernel), gs.Constant(f"{name}_bias", bias)]
        return [gs.Node("Conv", name, {}, inputs, [out])]

    def insert(self, at: Inserter, entry: gs.Tensor) -> gs.Tensor:
        """x + (x (W - 1) + b), features last: for the model that the result is compared with."""
        perm = [d for d in range(self.rank) if d != self.dim] + [self.dim]
        rows = at.node("Transpose", [entry], perm=perm)
        change = at.constant((self.weight - np.eye(len(self.weight))).astype(np.float32))
        moved = at.node("Add", [at.node("MatMul", [rows, change]), at.constant(self.bias.astype(np.float32))])
        back = at.node("Transpose", [moved], perm=[int(d) for d in np.argsort(perm)])
        return at.node("Add", [entry, back])


def fit_maps(blocks: Blocks, dropped: Sequence[Block], judge: Judge, fit: Sequence[Feeds]) -> Amends:
    """The maps that help, by the exit whose place they take; fitted in graph order, each on what goes before."""
    found, best = Amends(), judge.damage(Amends())
    for last in last_of_runs(dropped):
        if not _is_mappable(blocks, last):
            continue
        moments, dim = _moments(blocks, dropped, found, last, judge.context, fit)
        for strength in RIDGES:
            each = _solve(moments, strength, dim, len(blocks.analysis.axes[last.entry]))
            each = replace(each, dtype=blocks.stream.kind(last.exit) or np.float32)
            trial = Amends({**found.maps, last.exit: each})
            if (moved := judge.damage(trial)) < best:
                best, found = moved, trial
    return found


def _is_mappable(blocks: Blocks, block: Block) -> bool:
    """Whether the features are a static last dimension, or the channels of a convolution's input."""
    axes, dim = blocks.analysis.axes[block.entry], feature_dimension(blocks, block)
    return axes[dim].static and (dim == len(axes) - 1 or (dim == 1 and len(axes) in (3, 4, 5)))


def _moments(
    blocks: Blocks,
    dropped: Sequence[Block],
    amends: Amends,
    last: Block,
    context: Context,
    batches: Sequence[Feeds],
) -> tuple[Moments, int]:
    """Of the entry as the pruned model makes it, and of the exit of the whole model; and the features' dimension."""
    entry, dim = target(last.exit, bypass_of(dropped)), feature_dimension(blocks, last)
    pruned = context.session(bypass(blocks, dropped, amends), [entry])
    whole = context.session(blocks.analysis.model, [last.exit])
    moments = Moments()
    for feeds in batches:
        valid = valid_tokens(feeds)
        before = rows_of(pruned.run(feeds)[entry], dim, valid).astype(np.float32)
        after = rows_of(whole.run(feeds)[last.exit], dim, valid).astype(np.float32)
        moments.add(before[None], after[None])
    return moments, dim


def _solve(moments: Moments, strength: float, dim: int, rank: int) -> Linear:
    """Least squares with a pull towards the identity, relative to each feature's own variance."""
    covariance = moments.covariance
    count = covariance.shape[1]
    added = ridge(covariance, strength, own=True)
    found = refit(np.eye(count)[None], covariance, moments.cross, added, np.ones(count, bool))[0]
    bias = moments.target_mean[0] - found @ moments.mean[0]
    return Linear(found.T, bias, dim, rank)
