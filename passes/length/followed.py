"""Where tokens went: masks and biases gathered along with them, and all tokens brought back.

`spots` are the places that the current tokens had before the first stage, [B, T, 1]; `where` are the places of the
first tokens among the current ones, [B, T0, 1]. Neither is there before it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.analysis.tokens import Tokens, same
from pruneopt.arrays import Array
from pruneopt.passes.length.counting import Counter
from pruneopt.passes.length.emit import Emit
from pruneopt.passes.length.gaps import Gap, Group
from pruneopt.passes.length.tensors import Tensors
from pruneopt.passes.length.topk import Pick

if TYPE_CHECKING:
    from pruneopt.passes.length.filling import Plan


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
        self.left: list[tuple[gs.Tensor, Pick]] = []  # the tokens before each stage, and which of them stayed

    def leave(self, x: gs.Tensor, pick: Pick) -> None:
        """Of tokens [B, T, D] some stay; the others wait for the end."""
        self.left.append((x, pick))
        if self.group.of("along"):
            self._spot(pick.places)

    def step(self, places: gs.Tensor, destinations: Callable[[], gs.Tensor]) -> None:
        """A stage leaves the tokens at `places`; each token before it goes to one of `destinations`."""
        if self.group.of("along"):
            self._spot(places)
        if self.group.of("back"):
            to = destinations()
            self.where = to if self.where is None else self.emit.op("GatherElements", to, self.where, axis=1)

    def _spot(self, places: gs.Tensor) -> None:
        spots = self.spots
        self.spots = places if spots is None else self.emit.op("GatherElements", spots, places, axis=1)

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
        axes = self._axes_back(gap)
        rank, batch = len(axes), self._batch(gap, axes)
        turned = [batch, dim, *(i for i in range(rank) if i not in (batch, dim))]
        now = emit.transpose(source, turned)
        if self.group.home is not None:
            out: gs.Tensor = emit.like(self._reunited(emit.wide(now)), source)
        else:
            assert self.where is not None
            out = emit.rows(now, self.where)
        again = [turned.index(i) for i in range(rank)]
        if again == sorted(again):
            emit.op("Identity", out, out=hole)
        else:
            emit.op("Transpose", out, perm=again, out=hole)

    def _reunited(self, now: gs.Tensor) -> gs.Tensor:
        """Tokens that stayed as they are now, [B, K + 1, D], with those that were left behind, stage by stage."""
        emit = self.emit
        for x, pick in reversed(self.left):
            count = Counter(emit).line(pick.count)
            span = emit.op("Range", 0, emit.squeeze(emit.size(x, 1), 0), 1)
            shape = emit.join(emit.size(x, 0), emit.size(x, 1), [1])
            own = emit.op("Expand", emit.unsqueeze(emit.op("Add", span, count), 0, 2), shape)
            first = emit.op("Range", 0, emit.squeeze(count, 0), 1)
            kept = emit.op("Expand", emit.unsqueeze(first, 0, 2), emit.op("Shape", pick.kept))
            at = emit.op("ScatterElements", own, pick.kept, kept, axis=1)
            now = emit.rows(emit.join(emit.slice(now, 1, [0], count), x, axis=1), at)
        return now

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
