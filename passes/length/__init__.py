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
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.analysis.axes import find
from pruneopt.analysis.cost import CostModel
from pruneopt.analysis.infer import Analysis, analyse
from pruneopt.analysis.observe import derived_tensors
from pruneopt.analysis.tokens import Refusal, Site, Tokens, same
from pruneopt.errors import PruneoptError, UsageError
from pruneopt.model import Model
from pruneopt.passes.base import Context, Outcome, Unchanged, prove
from pruneopt.passes.length.counting import Stage
from pruneopt.passes.length.emit import order
from pruneopt.passes.length.filling import Filled, Filler, Plan, heads_of
from pruneopt.passes.length.marking import Group, Marked, faults, mark
from pruneopt.passes.length.opened import opened
from pruneopt.passes.length.schedule import lengths, removing, schedule, shares, stages_of
from pruneopt.passes.length.shadow import Shadow
from pruneopt.passes.length.writing import write_lengths

METHODS = ("tome", "topk", "static")
LEAST_TOKENS = 8  # fewer are not worth a stage
LEAST_SAVING = 1e-2  # share of the multiply-accumulates that half of the tokens must save


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
        plain = opened(model, context)
        if plain is not model:
            prove(plain, Unchanged(model, context.feeds), context)
        tokens = Tokens(analyse(plain, context.observation(plain), context.keep))
        sites, refused = _sites(tokens, context)
        marked, dropped = self._mark(tokens, sites, context.keep)
        refused += dropped
        if not marked.groups:
            raise PruneoptError(_sentence(refused), refused=[str(r) for r in refused])
        plans = self._plans(tokens, marked, context)
        short, filled = _rewrite(tokens, marked, plans)
        entry = {"sites": [_entry(f, tokens) for f in filled], "refused": [str(r) for r in refused]}
        return Outcome(short, entry, Shadow(short, tokens, filled, tokens.analysis.seen.feeds, context))

    def _mark(
        self, tokens: Tokens, sites: Sequence[Sequence[Site]], keep: tuple[str, ...]
    ) -> tuple[Marked, list[Refusal]]:
        """Mark the stages, without those that turn out to be impossible."""
        chosen = [stages_of(group, self.method, self.stages) for group in sites]
        refused: list[Refusal] = []
        while True:
            marked = mark(tokens, chosen, keep)
            bad = faults(marked) or _useless(marked)
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
        masks = [g for g in group.of("along") if not isinstance(g.source, gs.Constant) and g.origin not in derived]
        plan = Plan(self.method, self._stages(group, left), not group.of("back") and group.front > 0, bool(masks))
        if self.method == "static":
            from pruneopt.passes.length.static import best_places

            if not group.tokens.static:
                raise UsageError("length: fixed places need a fixed number of tokens; use tome or topk for this model")
            plan.places = best_places(tokens, group, plan, context)
        return plan

    def _for_macs(self, tokens: Tokens, marked: Marked) -> float:
        """The largest share left at the end that meets the budget."""
        whole = CostModel(tokens.analysis, -1).macs({})
        cost = CostModel(marked.analysis, -1)
        low, high = 0.02, 1.0
        if self._cost(cost, marked, low) > (self.macs or 1) * whole:
            least = self._cost(cost, marked, low) / whole
            raise PruneoptError(f"length alone cannot go below {least:.0%} of the multiply-accumulates; add width or depth")
        for _ in range(12):
            middle = (low + high) / 2
            low, high = (middle, high) if self._cost(cost, marked, middle) <= (self.macs or 1) * whole else (low, middle)
        return low

    def _cost(self, cost: CostModel, marked: Marked, left: float) -> int:
        kept = {}
        for group in marked.groups:
            counts = lengths(self._stages(group, left), self.method, group.tokens.size[-1])
            for gap, count in zip(group.shorts(), counts, strict=True):
                kept[find(marked.analysis.axes[gap.hole.name][gap.dims[0]])] = count
        return cost.macs(kept)


# --- finding ------------------------------------------------------------------------------------------


def _sites(tokens: Tokens, context: Context) -> tuple[list[list[Site]], list[Refusal]]:
    """Sites by token axis, in order, and why there are no more."""
    groups: list[list[Site]] = []
    refused: list[Refusal] = []
    causal: dict[str, bool] = {}
    for attention in tokens.attentions:
        if not attention.is_self or min(attention.tokens.size) < 2:
            continue
        found = tokens.site(attention)
        if isinstance(found, Refusal):
            refused.append(found)
            continue
        if max(attention.tokens.size) < LEAST_TOKENS:
            refused.append(Refusal(found.tensor, f"has only {attention.tokens} tokens"))
            continue
        try:
            heads_of(tokens, attention, found)
        except PruneoptError as error:
            refused.append(Refusal(found.tensor, str(error)))
            continue
        if any(site.tensor == found.tensor for group in groups for site in group):
            continue
        home = next((g for g in groups if same(g[0].attention.tokens, attention.tokens) and set(found.behind) < set(g[-1].behind)), None)
        if home is None:
            groups.append([found])
        else:
            home.append(found)
    kept = []
    for group in groups:
        if _is_causal(tokens, group[0], context, causal):
            refused.append(Refusal(group[0].tensor, "its attention is causal: every position is an output of its own"))
        else:
            kept.append(group)
    return kept, refused


def _is_causal(tokens: Tokens, site: Site, context: Context, known: dict[str, bool]) -> bool:
    """Whether the first query sees no other token than itself, as measured."""
    name = site.attention.probabilities
    if name not in known:
        session = context.session(tokens.analysis.model, [name], optimize=False)
        found = session.run(tokens.analysis.seen.feeds[-1])[name]
        known[name] = bool(found.shape[-1] > 1 and not np.any(found[..., 0, 1:]))
    return known[name]


def _sentence(refused: Sequence[Refusal]) -> str:
    if not refused:
        return "length: there is no self-attention in this model, so it has no tokens to remove"
    return f"length: no tokens can be removed; {refused[0]}" + (f" (and {len(refused) - 1} more)" if refused[1:] else "")


def _useless(marked: Marked) -> dict[Site, Refusal]:
    """Sites of token axes behind which hardly anything would get cheaper: windows that are put together at once."""
    cost = CostModel(marked.analysis, -1)
    whole, found = cost.macs({}), {}
    for group in marked.groups:
        axes = [find(marked.analysis.axes[g.hole.name][g.dims[0]]) for g in group.shorts() if g.hole.name in marked.analysis.axes]
        if whole - cost.macs({axis: axis.size[-1] // 2 for axis in axes}) < LEAST_SAVING * whole:
            why = f"its {group.tokens} tokens are windows or the end of the model: nothing behind it would get cheaper"
            found |= {site: Refusal(site.tensor, why) for site in group.sites}
    return found


# --- rewriting ----------------------------------------------------------------------------------------


def _rewrite(tokens: Tokens, marked: Marked, plans: Sequence[Plan]) -> tuple[Model, list[Filled]]:
    sizes = {}
    for group, plan in zip(marked.groups, plans, strict=True):
        by_run = [lengths(plan.stages, plan.method, n) for n in group.tokens.size]
        if plan.method == "static":
            by_run = [[len(p) for p in plan.places]] * len(by_run)
        for gap in group.shorts():
            axis = find(marked.analysis.axes[gap.hole.name][gap.dims[0]])
            sizes[axis] = tuple(run[gap.level - 1] for run in by_run)
        for gap in group.of("back"):
            for axis in (marked.analysis.axes.get(gap.hole.name) or [None] * 9)[gap.dims[0]],:
                if axis is not None:
                    sizes |= {a: a.size for a in [find(axis)] if a not in sizes}
    model = write_lengths(marked.analysis, sizes)
    _put_back(model, marked)
    filled = [Filler(model, tokens, g, p).fill() for g, p in zip(marked.groups, plans, strict=True)]
    return order(_cleaned(model)), filled


def _put_back(model: Model, marked: Marked) -> None:
    """The nodes that read single places at the front."""
    known = {t.name: t for node in model.graph.nodes for t in (*node.inputs, *node.outputs) if t.name}
    known |= {t.name: t for t in (*model.graph.inputs, *model.graph.outputs)}
    for read in marked.reads:
        inputs = [known.setdefault(t.name, _fresh(t)) for t in read.inputs]
        outputs = [known.setdefault(t.name, gs.Variable(t.name, t.dtype)) for t in read.outputs]
        model.graph.nodes.append(gs.Node(read.op, read.name, dict(read.attrs), inputs, outputs, read.domain))


def _fresh(tensor: gs.Tensor) -> gs.Tensor:
    return tensor if isinstance(tensor, gs.Constant) else gs.Variable(tensor.name, tensor.dtype)


def _cleaned(model: Model) -> Model:
    """Without nodes that nothing needs any more."""
    ends = {t.name for t in model.graph.outputs}
    nodes = model.graph.nodes
    while True:
        read = {t.name for n in nodes for t in n.inputs} | ends
        read |= {t.name for b in model.graph.subgraphs(recursive=True) for n in b.nodes for t in n.inputs}
        read |= {t.name for b in model.graph.subgraphs(recursive=True) for t in b.outputs}
        kept = [n for n in nodes if any(t.name in read for t in n.outputs)]
        if len(kept) == len(nodes):
            return model
        model.graph.nodes = nodes = kept


def _entry(filled: Filled, tokens: Tokens) -> dict[str, Any]:
    group, plan = filled.group, filled.plan
    by_run = [lengths(plan.stages, plan.method, n) for n in group.tokens.size]
    return {
        "method": plan.method,
        "tokens": list(dict.fromkeys(group.tokens.size)),
        "front": group.front,
        "stages": [
            {"behind": site.tensor, "share": stage.parts / 10_000, "left": list(dict.fromkeys(run[i] for run in by_run))}
            for i, (site, stage) in enumerate(zip(group.sites, plan.stages, strict=True))
        ],
        "all_back": len(group.of("back")),
        "gathered_along": len(group.of("along")),
    }


__all__ = ["Analysis", "Length"]
