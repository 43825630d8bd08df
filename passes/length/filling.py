"""Fills the gaps of one group: stages of merging or picking, and attention in proportion to what they merged."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_graphsurgeon as gs

from pruneopt.analysis.cuts import Site
from pruneopt.analysis.tokens import Tokens, same
from pruneopt.arrays import Array
from pruneopt.model import Model
from pruneopt.passes.length import tome, topk
from pruneopt.passes.length.counting import Count, Stage
from pruneopt.passes.length.emit import Emit
from pruneopt.passes.length.followed import Followed
from pruneopt.passes.length.gaps import Gap, Group
from pruneopt.passes.length.scores import fitted, heads_of
from pruneopt.passes.length.tensors import Tensors
from pruneopt.passes.length.told import Told


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
        self.tensors = Tensors(model)
        self.tokens = tokens
        self.group = group
        self.plan = plan
        self.told = Told(self.emit, tokens, self.tensors)
        self.followed = Followed(self.emit, tokens, self.tensors, group, plan)
        self.filled = Filled(group, plan)
        self.size: gs.Tensor | None = None
        self.zero: gs.Tensor | None = None  # zeros, [B, 1, 1]
        self.first: Count = group.tokens.size[0] if group.tokens.static else 0

    def fill(self) -> Filled:
        """All gaps, site by site."""
        if not self.group.tokens.static:
            gap = self.group.shorts()[0]
            self.first = self.emit.size(self.tensors.of(gap.source), gap.dims[0])
        now: Count = self.first
        for level, (site, stage) in enumerate(zip(self.group.sites, self.plan.stages, strict=True), 1):
            now = self._site(level, site, stage, now)
            for gap in self.group.of("along", level):
                self.followed.along(gap)
            for gap in self.group.of("back", level):
                self.followed.back(gap)
            if self.plan.method == "tome":
                self._proportional(level)
        return self.filled

    def _site(self, level: int, site: Site, stage: Stage, tokens: Count) -> Count:
        gap = self.group.shorts()[level - 1]
        if self.plan.method == "static":
            return self._static(gap, level)
        emit = self.emit
        cut = self.tensors.of(gap.source)
        x = emit.wide(emit.transpose(cut, site.dims))
        if self.zero is None:
            self.zero = emit.op("Expand", [[[0]]], emit.join(emit.size(x, 0), [1, 1]))
        if not isinstance(tokens, int):
            tokens = emit.size(x, 1)
        step = self._merge if self.plan.method == "tome" else self._pick
        out, left = step(x, site, stage, tokens)
        behind = emit.transpose(out, [site.dims.index(i) for i in range(3)])
        self.tensors.put(gap.hole, emit.like(behind, cut))
        return left if isinstance(left, int) else emit.size(out, 1)

    def _merge(self, x: gs.Tensor, site: Site, stage: Stage, tokens: Count) -> tuple[gs.Tensor, Count]:
        emit, zero = self.emit, self.zero
        assert zero is not None
        if self.plan.padded and self.size is None:
            self.size = self.told.real(site)
            self.filled.real = self.size.name
        keys = self.told.keys(site, first=not self.filled.decisions)
        merge = tome.decide(emit, keys, zero, stage, tokens, self.first, self.size, self.plan.padded)
        out, self.size = tome.apply(emit, x, merge, self.size)
        self.filled.decisions.append(merge.decisions)
        self.followed.step(merge.places, lambda: tome.destinations(emit, merge, zero))
        return out, merge.left

    def _pick(self, x: gs.Tensor, site: Site, stage: Stage, tokens: Count) -> tuple[gs.Tensor, Count]:
        emit = self.emit
        received = self.told.received(site, self.plan.by_first)
        pick = topk.decide(emit, received, stage, tokens, self.first)
        self.filled.decisions.append(pick.decisions)
        if self.group.home is not None:
            self.followed.leave(x, pick)
        else:
            self.followed.step(pick.places, lambda: topk.destinations(emit, pick))
        left = pick.count + 1 if isinstance(pick.count, int) else emit.size(pick.places, 1)
        return topk.apply(emit, x, pick), left

    def _static(self, gap: Gap, level: int) -> Count:
        """The same places for every input."""
        kept = self.plan.places[level - 1]
        source = self.tensors.of(gap.source)
        self.tensors.put(gap.hole, self.emit.op("Gather", source, kept, axis=gap.dims[0]))
        self.filled.decisions.append({})
        return len(kept)

    def _proportional(self, level: int) -> None:
        """scores + log s, for every softmax over the tokens between this site and the next."""
        emit, group = self.emit, self.group
        assert self.size is not None
        over = [
            a
            for a in self.tokens.attentions
            if same(a.tokens, group.tokens) and group.level(a.softmax) == level
        ]
        log = emit.op("Log", self.size) if over else None
        for attention in over:
            softmax = self.tensors.named(attention.probabilities).inputs[0]
            scores = softmax.inputs[0]
            row = fitted(emit, log, heads_of(self.tokens, attention, group.sites[0]))
            softmax.inputs[0] = emit.op("Add", scores, emit.like(row, scores))
