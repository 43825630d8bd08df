"""Fills the gaps: stages of merging or picking, companions gathered along, tokens brought back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from pruneopt.analysis.axes import Axis
from pruneopt.analysis.tokens import Attention, Site, Tokens, meets, same
from pruneopt.model import Model
from pruneopt.passes.length import tome, topk
from pruneopt.passes.length.counting import Count, Counter, Stage
from pruneopt.passes.length.emit import FLOAT, Emit
from pruneopt.passes.length.marking import Gap, Group
from pruneopt.passes.length.scores import fitted, heads_of

Array = npt.NDArray[Any]


@dataclass(eq=False)
class Plan:
    """What happens at the sites of one group.

    Attributes:
        method: `tome`, `topk` or `static`.
        stages: one per site.
        by_first: tokens are scored by the attention of the first one.
        padded: masks cross the cuts, so that there may be padding.
        places: with `static`, per site the places (before it) that stay.
    """

    method: str
    stages: list[Stage]
    by_first: bool = True
    padded: bool = False
    places: list[Array] = field(default_factory=list)


@dataclass(eq=False)
class Filled:
    """What was put into one group: per site the names of the tensors that say who went where."""

    group: Group
    plan: Plan
    decisions: list[dict[str, str]] = field(default_factory=list)
    real: str = ""  # name of what says which tokens are no padding, [B, T, 1]


class Filler:
    """Fills the gaps of one group in `model`, whose variables are found by name."""

    def __init__(self, model: Model, tokens: Tokens, group: Group, plan: Plan) -> None:
        self.emit = Emit(model)
        self.tensors = {
            t.name: t for node in model.graph.nodes for t in (*node.inputs, *node.outputs) if t.name
        }
        self.tensors |= {t.name: t for t in (*model.graph.inputs, *model.graph.outputs)}
        self.tokens = tokens
        self.group = group
        self.plan = plan
        self.filled = Filled(group, plan)
        self.size: gs.Tensor | None = None
        self.zero: gs.Tensor | None = None  # zeros, [B, 1, 1]
        self.spots: gs.Tensor | None = None  # places of the current tokens before the first stage, [B, T, 1]
        self.where: gs.Tensor | None = None  # places of the first tokens among the current ones, [B, T0, 1]
        self.first: Count = group.tokens.size[0] if group.tokens.static else 0

    def fill(self) -> Filled:
        """All gaps, site by site."""
        if not isinstance(self.first, int) or not self.group.tokens.static:
            gap = self.group.shorts()[0]
            self.first = self.emit.size(self._tensor(gap.source), gap.dims[0])
        now: Count = self.first
        for level, (site, stage) in enumerate(zip(self.group.sites, self.plan.stages, strict=True), 1):
            now = self._site(level, site, stage, now)
            for gap in self.group.of("along", level):
                self._along(gap)
            for gap in self.group.of("back", level):
                self._back(gap)
            if self.plan.method == "tome":
                self._proportional(level)
        return self.filled

    # --- stages ------------------------------------------------------------------------------------

    def _site(self, level: int, site: Site, stage: Stage, tokens: Count) -> Count:
        gap = self.group.shorts()[level - 1]
        if self.plan.method == "static":
            return self._static(gap, level)
        emit = self.emit
        cut = self._tensor(gap.source)
        x = emit.wide(emit.transpose(cut, site.dims))
        if self.zero is None:
            self.zero = emit.op("Expand", [[[0]]], emit.join(emit.size(x, 0), [1, 1]))
        if not isinstance(tokens, int):
            tokens = emit.size(x, 1)
        step = self._merge if self.plan.method == "tome" else self._pick
        out, left = step(x, site, stage, tokens)
        self._set(gap.hole, emit.like(emit.transpose(out, [site.dims.index(i) for i in range(3)]), cut))
        return left if isinstance(left, int) else emit.size(out, 1)

    def _merge(self, x: gs.Tensor, site: Site, stage: Stage, tokens: Count) -> tuple[gs.Tensor, Count]:
        emit, zero = self.emit, self.zero
        assert zero is not None
        if self.plan.padded and self.size is None:
            self.size = self._real(site)
        keys = self._keys(site)
        merge = tome.decide(emit, keys, zero, stage, tokens, self.first, self.size, self.plan.padded)
        out, self.size = tome.apply(emit, x, merge, self.size)
        self.filled.decisions.append(merge.decisions)
        self._follow(merge.places, lambda: tome.destinations(emit, merge, zero))
        return out, merge.left

    def _pick(self, x: gs.Tensor, site: Site, stage: Stage, tokens: Count) -> tuple[gs.Tensor, Count]:
        emit = self.emit
        pick = topk.decide(emit, self._received(site, self.plan.by_first), stage, tokens, self.first)
        self.filled.decisions.append(pick.decisions)
        self._follow(pick.places, lambda: topk.destinations(emit, pick))
        left = pick.count + 1 if isinstance(pick.count, int) else emit.size(pick.places, 1)
        return topk.apply(emit, x, pick), left

    def _static(self, gap: Gap, level: int) -> Count:
        """The same places for every input."""
        kept = self.plan.places[level - 1]
        source = self._tensor(gap.source)
        self._set(gap.hole, self.emit.op("Gather", source, kept, axis=gap.dims[0]))
        self.filled.decisions.append({})
        return len(kept)

    def _follow(self, places: gs.Tensor, step: Callable[[], gs.Tensor]) -> None:
        """Places since before the first stage, as far as anybody needs them."""
        emit = self.emit
        if self.group.of("along"):
            self.spots = (
                places if self.spots is None else emit.op("GatherElements", self.spots, places, axis=1)
            )
        if self.group.of("back"):
            to = step()
            self.where = to if self.where is None else emit.op("GatherElements", to, self.where, axis=1)

    # --- what stages are told ------------------------------------------------------------------------

    def _keys(self, site: Site) -> gs.Tensor:
        """The mean of the keys over heads, [B, T, d]; a product with a row of ones is faster than ReduceMean."""
        emit, attention = self.emit, site.attention
        key = emit.wide(self._tensor_named(attention.key))
        axes = self.tokens.analysis.axes[attention.key]
        rank = len(axes)
        token = next(i for i, a in enumerate(axes) if same(a, attention.tokens))
        width = rank - 2 if token == rank - 1 else rank - 1
        heads = self.heads(attention, site)
        lead = [i for i in range(rank) if i not in (token, width)]
        if rank == 3 and not heads:
            return emit.transpose(key, (lead[0], token, width))
        if rank == 4:
            batch = self.tokens.analysis.axes[site.tensor][site.dims[0]]
            lead.sort(key=lambda i: not meets(axes[i], batch))
            heads = axes[lead[1]].size[0]
            if lead != [0, 1]:
                key, token, width, axes = (
                    emit.transpose(key, (*lead, token, width)),
                    2,
                    3,
                    [axes[i] for i in (*lead, token, width)],
                )
            flat = emit.op("Reshape", key, [0, 0, -1])
        else:
            size = Counter(emit).mul(self._length(key, axes[token], token), axes[width].size[0])
            flat = emit.op("Reshape", key, emit.join([-1, heads], Counter(emit).line(size)))
        mean = emit.op("MatMul", np.full((1, heads or 1), 1 / (heads or 1), np.float32), flat)
        if token == rank - 1:
            return emit.op(
                "Transpose", emit.op("Reshape", mean, [0, axes[width].size[0], -1]), perm=[0, 2, 1]
            )
        return emit.op("Reshape", mean, [0, -1, axes[width].size[0]])

    def _length(self, tensor: gs.Tensor, axis: Axis, dim: int) -> Count:
        return self.emit.size(tensor, dim) if len(self.filled.decisions) or not axis.static else axis.size[0]

    def _received(self, site: Site, by_first: bool) -> gs.Tensor:
        probabilities = self.emit.wide(self._tensor_named(site.attention.probabilities))
        return topk.attention_received(self.emit, probabilities, self.heads(site.attention, site), by_first)

    def _real(self, site: Site) -> gs.Tensor:
        """[B, T, 1]: 1 for tokens that the first one attends to, next to nothing for padding."""
        emit = self.emit
        seen = emit.op("Greater", self._received(site, True), np.float32(0))
        real = emit.op("Max", emit.cast(seen, FLOAT), np.float32(tome.NOTHING))
        self.filled.real = real.name
        return real

    def heads(self, attention: Attention, site: Site) -> int | None:
        """Heads that the first of three dimensions holds besides the batch; None for heads of their own."""
        return heads_of(self.tokens, attention, site)

    # --- companions, and back ------------------------------------------------------------------------

    def _along(self, gap: Gap) -> None:
        """A mask or bias for the tokens that are left: of each its own place before the first stage."""
        emit = self.emit
        source = self._tensor(gap.source)
        if self.plan.method == "static":
            for dim in gap.dims:
                source = emit.op("Gather", source, self._static_places(gap.level), axis=dim)
            self._set(gap.hole, source)
            return
        assert self.spots is not None
        missing = gap.rank - self._rank(gap)
        if missing:
            source = emit.unsqueeze(source, *range(missing))
        for dim in gap.dims:
            source = self._gather(source, dim + missing, gap.rank)
        self._set(gap.hole, source)

    def _gather(self, source: gs.Tensor, dim: int, rank: int) -> gs.Tensor:
        """`source` at `spots` along `dim`; the first dimension is the batch, or 1 and becomes it."""
        emit = self.emit
        assert self.spots is not None
        index = emit.op("Reshape", self.spots, [0 if i == 0 else -1 if i == dim else 1 for i in range(rank)])
        count = emit.size(self.spots, 1)
        batch = emit.size(self.spots, 0)
        own = [batch if i == 0 else count if i == dim else emit.size(source, i) for i in range(rank)]
        whole = [batch if i == 0 else emit.size(source, i) for i in range(rank)]
        spread = emit.op("Expand", source, emit.join(*whole))
        return emit.op("GatherElements", spread, emit.op("Expand", index, emit.join(*own)), axis=dim)

    def _rank(self, gap: Gap) -> int:
        if isinstance(gap.source, gs.Constant):
            return len(gap.source.shape)
        return len(self.tokens.analysis.axes[gap.source.name])

    def _static_places(self, level: int) -> Array:
        places = self.plan.places[0]
        for step in self.plan.places[1:level]:
            places = places[step]
        return places

    def _back(self, gap: Gap) -> None:
        """All tokens again: each is what the token behind it has become."""
        emit, dim = self.emit, gap.dims[0]
        source = self._tensor(gap.source)
        if self.plan.method == "static":
            places = self._static_places(gap.level)
            nearest = np.abs(np.arange(self.group.tokens.size[0])[:, None] - places[None]).argmin(1)
            emit.op("Gather", source, nearest, axis=dim, out=self._tensor(gap.hole))
            return
        assert self.where is not None
        rank = self._back_rank(gap)
        batch = self._batch_of(gap, rank)
        order = [batch, dim, *(i for i in range(rank) if i not in (batch, dim))]
        out = emit.rows(emit.transpose(source, order), self.where)
        back = [order.index(i) for i in range(rank)]
        emit.op("Transpose", out, perm=back, out=self._tensor(gap.hole)) if back != sorted(back) else emit.op(
            "Identity", out, out=self._tensor(gap.hole)
        )

    def _back_rank(self, gap: Gap) -> int:
        return len(self._back_axes(gap))

    def _back_axes(self, gap: Gap) -> Sequence[Any]:
        axes = self.tokens.analysis.axes
        for name in (gap.source.name, gap.hole.name):
            if name in axes:
                return axes[name]
        short = next(g for g in self.group.gaps if g.hole is gap.source)
        return axes[short.source.name]

    def _batch_of(self, gap: Gap, rank: int) -> int:
        site = self.group.sites[0]
        own = self.tokens.analysis.axes[site.tensor][site.dims[0]]
        axes = self._back_axes(gap)
        return next((i for i in range(rank) if i not in gap.dims and same(axes[i], own)), 0)

    # --- proportional attention ----------------------------------------------------------------------

    def _proportional(self, level: int) -> None:
        """scores + log s, for every softmax over the tokens between this site and the next."""
        emit = self.emit
        assert self.size is not None
        over = [
            a
            for a in self.tokens.attentions
            if same(a.tokens, self.group.tokens) and self.group.level(a.softmax) == level
        ]
        if not over:
            return
        log = emit.op("Log", self.size)
        for attention in over:
            softmax = self._maker(attention.probabilities)
            heads = heads_of(self.tokens, attention, self.group.sites[0])
            scores = softmax.inputs[0]
            softmax.inputs[0] = emit.op("Add", scores, emit.like(fitted(emit, log, heads), scores))

    def _maker(self, name: str) -> gs.Node:
        return self.tensors[name].inputs[0]

    # --- tensors -------------------------------------------------------------------------------------

    def _tensor_named(self, name: str) -> gs.Tensor:
        return self.tensors[name]

    def _tensor(self, tensor: gs.Tensor) -> gs.Tensor:
        """The tensor of the written model for one of the marked model."""
        if tensor.name not in self.tensors and isinstance(tensor, gs.Constant):
            self.tensors[tensor.name] = tensor
        return self.tensors[tensor.name]

    def _set(self, hole: gs.Variable, value: gs.Tensor) -> None:
        """Everything that reads the hole reads `value`."""
        target = self.tensors.get(hole.name)
        self.tensors[hole.name] = value
        if target is None:
            return
        for node in list(target.outputs):
            for slot, tensor in enumerate(node.inputs):
                if tensor is target:
                    node.inputs[slot] = value
