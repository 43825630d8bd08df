"""Where tokens went: masks and biases gathered along with them, and all tokens brought back.

`spots` are the places that the current tokens had before the first stage, [B, T, 1]; `where` are the places of the
first tokens among the current ones, [B, T0, 1]. Neither is there before it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from pruneopt.analysis.tokens import Tokens, same
from pruneopt.passes.length.emit import Emit
from pruneopt.passes.length.gaps import Gap, Group
from pruneopt.passes.length.tensors import Tensors

if TYPE_CHECKING:
    from pruneopt.passes.length.filling import Plan

Array = npt.NDArray[Any]


class Followed:
    """Follows the tokens of one group from stage to stage."""

    def __init__(self, emit: Emit, tokens: Tokens, tensors: Tensors, group: Group, plan: Plan) -> None:
        self.emit = emit
        self.axes = tokens.analysis.axes
        self.tensors = tensors
        self.group = group
        self.plan = plan
        self.spots: gs.Tensor | None = None
        self.where: gs.Tensor | None = None

    def step(self, places: gs.Tensor, destinations: Callable[[], gs.Tensor]) -> None:
        """A stage leaves the tokens at `places`; each token before it goes to one of `destinations`."""
        emit = self.emit
        if self.group.of("along"):
            self.spots = (
                places if self.spots is None else emit.op("GatherElements", self.spots, places, axis=1)
            )
        if self.group.of("back"):
            to = destinations()
            self.where = to if self.where is None else emit.op("GatherElements", to, self.where, axis=1)

    def along(self, gap: Gap) -> None:
        """A mask or bias for the tokens that are left: of each its own place before the first stage."""
        source = self.tensors.of(gap.source)
        if self.plan.method == "static":
            for dim in gap.dims:
                source = self.emit.op("Gather", source, self._fixed(gap.level), axis=dim)
            self.tensors.put(gap.hole, source)
            return
        missing = gap.rank - self._rank(gap)
        if missing:
            source = self.emit.unsqueeze(source, *range(missing))
        for dim in gap.dims:
            source = self._gather(source, dim + missing, gap.rank)
        self.tensors.put(gap.hole, source)

    def back(self, gap: Gap) -> None:
        """All tokens again: each is what the token behind it has become."""
        emit, dim = self.emit, gap.dims[0]
        source, hole = self.tensors.of(gap.source), self.tensors.of(gap.hole)
        if self.plan.method == "static":
            places = self._fixed(gap.level)
            nearest = np.abs(np.arange(self.group.tokens.size[0])[:, None] - places[None]).argmin(1)
            emit.op("Gather", source, nearest, axis=dim, out=hole)
            return
        assert self.where is not None
        axes = self._axes_back(gap)
        rank, batch = len(axes), self._batch(gap, axes)
        turned = [batch, dim, *(i for i in range(rank) if i not in (batch, dim))]
        out = emit.rows(emit.transpose(source, turned), self.where)
        again = [turned.index(i) for i in range(rank)]
        if again == sorted(again):
            emit.op("Identity", out, out=hole)
        else:
            emit.op("Transpose", out, perm=again, out=hole)

    def _gather(self, source: gs.Tensor, dim: int, rank: int) -> gs.Tensor:
        """`source` at `spots` along `dim`; the first dimension is the batch, or 1 and becomes it."""
        emit = self.emit
        assert self.spots is not None
        index = emit.op("Reshape", self.spots, [0 if i == 0 else -1 if i == dim else 1 for i in range(rank)])
        count, batch = emit.size(self.spots, 1), emit.size(self.spots, 0)
        own = [batch if i == 0 else count if i == dim else emit.size(source, i) for i in range(rank)]
        whole = [batch if i == 0 else emit.size(source, i) for i in range(rank)]
        spread = emit.op("Expand", source, emit.join(*whole))
        return emit.op("GatherElements", spread, emit.op("Expand", index, emit.join(*own)), axis=dim)

    def _rank(self, gap: Gap) -> int:
        constant = isinstance(gap.source, gs.Constant)
        return len(gap.source.shape if constant else self.axes[gap.source.name])

    def _fixed(self, level: int) -> Array:
        """With `static`, the places before the first stage of the tokens behind one."""
        places = self.plan.places[0]
        for step in self.plan.places[1:level]:
            places = places[step]
        return places

    def _axes_back(self, gap: Gap) -> Sequence[Any]:
        for name in (gap.source.name, gap.hole.name):
            if name in self.axes:
                return self.axes[name]
        short = next(g for g in self.group.gaps if g.hole is gap.source)
        return self.axes[short.source.name]

    def _batch(self, gap: Gap, axes: Sequence[Any]) -> int:
        site = self.group.sites[0]
        own = self.axes[site.tensor][site.dims[0]]
        return next((i for i in range(len(axes)) if i not in gap.dims and same(axes[i], own)), 0)
