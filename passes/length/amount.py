"""How many tokens each stage leaves: what the options of `Length` come to on a graph with gaps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from pruneopt.analysis.axes import volume
from pruneopt.analysis.cost import CostModel
from pruneopt.analysis.observe import derived_tensors
from pruneopt.analysis.tokens import Tokens
from pruneopt.errors import PruneoptError, UsageError
from pruneopt.passes.context import Context
from pruneopt.passes.length.counting import Stage
from pruneopt.passes.length.filling import Plan
from pruneopt.passes.length.gaps import Group, Marked
from pruneopt.passes.length.schedule import lengths, removing, schedule, shares

LEAST = 0.02  # share of the tokens that a budget may leave
HALVINGS = 12  # of the interval of shares


@dataclass(frozen=True)
class Amount:
    """What was asked for; see `Length`. `macs` is a share of what the graph at hand takes."""

    method: str
    keep: float | None = None
    left: float | None = None
    r: int | None = None
    macs: float | None = None
    falling: bool = False

    def plans(self, tokens: Tokens, marked: Marked, context: Context) -> list[Plan]:
        """What happens at the sites of each group.

        Raises:
            PruneoptError: fewer tokens alone do not meet the budget.
            UsageError: an option needs a fixed number of tokens.
        """
        left = self.left if self.macs is None else self._within(tokens, marked, self.macs)
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
        by_first = group.reads > 0 and (group.home is not None or not group.of("back"))
        plan = Plan(self.method, self._stages(group, left), by_first, bool(masks))
        if self.method == "static":
            from pruneopt.passes.length.static import best_places

            if not group.tokens.static:
                raise UsageError(
                    "length: fixed places need a fixed number of tokens; use tome or topk for this model"
                )
            plan.places = best_places(tokens, group, plan, context)
        return plan

    def _within(self, tokens: Tokens, marked: Marked, share: float) -> float:
        """The largest share left at the end that meets the budget."""
        whole = CostModel(tokens.analysis, -1).macs({})
        cost = CostModel(marked.analysis, -1)
        low, high = LEAST, 1.0
        least = self._cost(tokens, cost, marked, low)
        if least > share * whole:
            raise PruneoptError(
                f"length alone cannot go below {least / whole:.0%} of the multiply-accumulates; add width or depth"
            )
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            fits = self._cost(tokens, cost, marked, middle) <= share * whole
            low, high = (middle, high) if fits else (low, middle)
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
        keys = volume(axes[site.attention.key]) // (batch * group.tokens.size[-1])
        heads = volume(axes[site.attention.probabilities][:-2]) // batch
        match = before * keys + (before // 2) ** 2 * keys // heads + after * (before - after) * channels
        total += batch * (match if method == "tome" else before * channels)
        before = after
    return total
