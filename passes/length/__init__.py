"""Fewer tokens behind some of the attentions, inside the graph; the signature stays.

1. `analysis/tokens.py` finds self-attentions and, behind each, a cut that all data with tokens passes through.
2. `schedule.py` chooses the cuts that become stages, and how many tokens each leaves.
3. `marking.py` opens gaps there; the analysis of the graph with gaps says what else hangs on the number of
   tokens. A site behind which something holds on to it (windows, fixed positions, a causal mask) is refused.
4. `writing.py` sets every size behind the gaps; `filling.py` fills them with `tome.py` or `topk.py`, gathers
   masks along, and brings all tokens back where an output or a pooling needs them.
5. `shadow.py` proves it: the original at full length, with merged tokens standing where they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import onnx_graphsurgeon as gs

from pruneopt.analysis.cost import CostModel
from pruneopt.analysis.infer import analyse
from pruneopt.analysis.observe import derived_tensors
from pruneopt.analysis.tokens import Refusal, Site, Tokens
from pruneopt.errors import PruneoptError, UsageError
from pruneopt.model import Model
from pruneopt.passes.base import Context, Outcome, Unchanged, prove
from pruneopt.passes.length.counting import Stage
from pruneopt.passes.length.faults import faults, useless
from pruneopt.passes.length.filling import Plan
from pruneopt.passes.length.finding import find_sites, long_enough, sentence
from pruneopt.passes.length.marking import Group, Marked, mark
from pruneopt.passes.length.opened import opened
from pruneopt.passes.length.rewriting import entry_of, rewrite
from pruneopt.passes.length.schedule import lengths, removing, schedule, shares, stages_of
from pruneopt.passes.length.shadow import Shadow

METHODS = ("tome", "topk", "static")


@dataclass(frozen=True)
class Length:
    """Remove tokens behind attentions.

    Attributes:
        keep: share of the tokens that each stage leaves; or
        left: share that is left at the end; or
        r: number of tokens that each stage removes, where their number is fixed; or
        macs: share of the multiply-accumulates to keep at most.
        method: `tome` (merge similar ones), `topk` (keep the most attended, fuse the rest) or `static` (the
            same places for every input).
        stages: attention layers that are stages, from 0, as `3/6/9`; by default all for `tome`, else three.
        falling: merge more tokens in early stages, fewer and fewer later; with `left` or `macs`.
    """

    keep: float | None = None
    left: float | None = None
    r: int | None = None
    macs: float | None = None
    method: str = "tome"
    stages: str = ""
    falling: bool = False

    def __post_init__(self) -> None:
        given = [n for n in ("keep", "left", "r", "macs") if getattr(self, n) is not None]
        if len(given) != 1:
            raise UsageError("length: say how much with one of keep, left, r and macs")
        value = getattr(self, given[0])
        if given[0] == "r" and value < 1:
            raise UsageError(f"length: r={value} is no number of tokens to remove")
        if given[0] != "r" and not 0 < value <= 1:
            raise UsageError(f"length: {given[0]}={value:g} is not in (0, 1]; it is the share to keep")
        if self.method not in METHODS:
            raise UsageError(f"length: there is no method '{self.method}'; choose from {', '.join(METHODS)}")

    def run(self, model: Model, context: Context) -> Outcome:
        """Find, schedule, mark, write, fill.

        Raises:
            PruneoptError: no site can be a stage; the message says why.
        """
        context = long_enough(model, context)
        plain = opened(model, context)
        if plain is not model:
            prove(plain, Unchanged(model, context.feeds), context)
        tokens = Tokens(analyse(plain, context.observation(plain), context.keep))
        sites, refused = find_sites(tokens, context)
        marked, dropped = self._mark(tokens, sites, context.keep)
        refused += dropped
        if not marked.groups:
            raise PruneoptError(sentence(refused), refused=[str(r) for r in refused])
        plans = self._plans(tokens, marked, context)
        short, filled = rewrite(tokens, marked, plans)
        entry = {"sites": [entry_of(f) for f in filled], "refused": [str(r) for r in refused]}
        return Outcome(short, entry, Shadow(short, tokens, filled, tokens.analysis.seen.feeds, context))

    def _mark(
        self, tokens: Tokens, sites: Sequence[Sequence[Site]], keep: tuple[str, ...]
    ) -> tuple[Marked, list[Refusal]]:
        """Mark the stages, without those that turn out to be impossible."""
        chosen = [stages_of(group, self.method, self.stages) for group in sites]
        refused: list[Refusal] = []
        while True:
            marked = mark(tokens, chosen, keep)
            bad = faults(marked) or useless(marked)
            if not bad:
                return marked, refused
            refused += bad.values()
            chosen = [[s for s in group if s not in bad] for group in chosen]

    # --- how many ------------------------------------------------------------------------------------

    def _plans(self, tokens: Tokens, marked: Marked, context: Context) -> list[Plan]:
        left = self.left
        if self.macs is not None:
            left = self._for_macs(tokens, marked)
        return [self._plan(tokens, group, left, context) for group in marked.groups]

    def _stages(self, group: Group, left: float | None) -> list[Stage]:
        count = len(group.sites)
        if self.r is not None:
            if not group.tokens.static:
                raise UsageError("length: r needs a fixed number of tokens; give keep or left for this model")
            return removing(count, group.tokens.size[0], self.r, group.front)
        return schedule(shares(count, self.method, self.keep, left, self.falling), group.front)

    def _plan(self, tokens: Tokens, group: Group, left: float | None, context: Context) -> Plan:
        derived = derived_tensors(tokens.analysis.model.graph)
        masks = [
            g for g in group.of("along") if not isinstance(g.source, gs.Constant) and g.origin not in derived
        ]
        plan = Plan(
            self.method, self._stages(group, left), not group.of("back") and group.front > 0, bool(masks)
        )
        if self.method == "static":
            from pruneopt.passes.length.static import best_places

            if not group.tokens.static:
                raise UsageError(
                    "length: fixed places need a fixed number of tokens; use tome or topk for this model"
                )
            plan.places = best_places(tokens, group, plan, context)
        return plan

    def _for_macs(self, tokens: Tokens, marked: Marked) -> float:
        """The largest share left at the end that meets the budget."""
        whole = CostModel(tokens.analysis, -1).macs({})
        cost = CostModel(marked.analysis, -1)
        low, high = 0.02, 1.0
        if self._cost(tokens, cost, marked, low) > (self.macs or 1) * whole:
            least = self._cost(tokens, cost, marked, low) / whole
            raise PruneoptError(
                f"length alone cannot go below {least:.0%} of the multiply-accumulates; add width or depth"
            )
        for _ in range(12):
            middle = (low + high) / 2
            low, high = (
                (middle, high)
                if self._cost(tokens, cost, marked, middle) <= (self.macs or 1) * whole
                else (low, middle)
            )
        return low

    def _cost(self, tokens: Tokens, cost: CostModel, marked: Marked, left: float) -> int:
        kept, own = {}, 0
        for group in marked.groups:
            counts = lengths(self._stages(group, left), self.method, group.tokens.size[-1])
            own += overhead(tokens, group, self.method, counts)
            for gap, count in zip(group.shorts(), counts, strict=True):
                axis = marked.axis(gap)
                if axis is not None:
                    kept[axis] = count
        return cost.macs(kept) + own


def overhead(tokens: Tokens, group: Group, method: str, left: Sequence[int]) -> int:
    """Multiply-accumulates of the stages themselves, at the larger of the observed sizes."""
    if method == "static":
        return 0
    axes, total, before = tokens.analysis.axes, 0, group.tokens.size[-1]
    for site, after in zip(group.sites, left, strict=True):
        batch, _, channels = (axes[site.tensor][dim].size[-1] for dim in site.dims)
        keys = prod(a.size[-1] for a in axes[site.attention.key]) // (batch * group.tokens.size[-1])
        heads = prod(a.size[-1] for a in axes[site.attention.probabilities][:-2]) // batch
        match = before * keys + (before // 2) ** 2 * keys // heads + after * (before - after) * channels
        total += batch * (match if method == "tome" else before * channels)
        before = after
    return total


__all__ = ["Length"]
