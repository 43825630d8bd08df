"""Shapes of attention scores: where batch and heads are, and what can be added to them."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from pruneopt.analysis.axes import Axis, factors
from pruneopt.analysis.cuts import Site
from pruneopt.analysis.tokens import Attention, Tokens, meets, same
from pruneopt.errors import PruneoptError
from pruneopt.passes.length.emit import Emit


def heads_of(tokens: Tokens, attention: Attention, site: Site) -> int | None:
    """Heads in the first dimension of three-dimensional scores; 0 for none, None where they have four dimensions."""
    axes = tokens.analysis.axes[attention.probabilities]
    if len(axes) == 4:
        return None
    if len(axes) != 3:
        raise PruneoptError(
            f"'{attention.probabilities}' has {len(axes)} dimensions; scores have three or four"
        )
    return heads_in(axes[0], tokens.analysis.axes[site.tensor][site.dims[0]], attention.probabilities)


def heads_in(axis: Axis, batch: Axis, name: str) -> int:
    """Heads that a dimension of tensor `name` holds behind the batch; 0 where it is the batch alone."""
    if same(axis, batch):
        return 0
    heads = {n // b for n, b in zip(axis.size, batch.size, strict=True)}
    if len(heads) != 1 or (not meets(axis, batch) and set(batch.size) != {1}):
        raise PruneoptError(f"'{name}' does not hold batch and heads")
    if set(batch.size) != {1} and not meets(factors(axis)[0], batch):
        raise PruneoptError(f"'{name}' holds heads in front of the batch")
    return heads.pop()


def fitted(emit: Emit, column: gs.Tensor, heads: int | None) -> gs.Tensor:
    """[B, T, 1] so that it can be added to scores."""
    if heads is None:
        return emit.op("Reshape", column, [0, 1, 1, -1])
    row = emit.op("Transpose", column, perm=[0, 2, 1])
    if not heads:
        return row
    spread = emit.op("Expand", row, [1, heads, 1])
    return emit.op("Reshape", spread, emit.join([-1, 1], emit.size(row, 2)))
