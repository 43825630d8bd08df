"""Why a site cannot be: what behind it holds on to the number of tokens, or gains nothing from fewer."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from pruneopt.analysis.axes import Axis, Kind
from pruneopt.analysis.cost import CostModel
from pruneopt.analysis.cuts import Refusal, Site
from pruneopt.analysis.infer import Analysis
from pruneopt.analysis.tokens import meets
from pruneopt.passes.length.gaps import Gap, Group, Marked

LEAST_SAVING = 1e-2  # share of the multiply-accumulates that half of the tokens must save


def faults(marked: Marked) -> dict[Site, Refusal]:
    """Sites behind which something holds on to the number of tokens, and what."""
    found: dict[Site, Refusal] = {}
    for group in marked.groups:
        found |= {s: Refusal(s.tensor, "all tokens are needed again before it") for s in group.apart}
        for gap in group.of("along"):
            if unbatched := _unbatched(marked, group, gap):
                found |= {s: Refusal(s.tensor, unbatched) for s in group.sites}
        reached = _reached(marked, group)
        lengths: dict[int, Site] = {}
        for gap in group.shorts():
            site = group.sites[gap.level - 1]
            axis = marked.axis(gap)
            why = _fault(marked, axis, reached) if axis is not None else None
            if why is None and axis is not None and id(axis) in lengths:
                why = "its tokens would have to be as many as those of the site before"
            if axis is not None:
                lengths[id(axis)] = site
            if why:
                found[site] = Refusal(site.tensor, why)
        for gap in group.gaps:
            if gap.kind == "back" and len(gap.dims) != 1:
                found[group.sites[gap.level - 1]] = Refusal(
                    gap.source.name, "holds its tokens more than once"
                )
    return found


def _unbatched(marked: Marked, group: Group, gap: Gap) -> str:
    """Why a companion cannot be gathered for each sample: its first dimension is not the batch."""
    axes, cut = marked.analysis.axes.get(gap.hole.name), marked.analysis.axes.get(group.shorts()[0].hole.name)
    if axes is None or cut is None:
        return ""
    batch = cut[group.sites[0].dims[0]]
    missing = gap.rank - len(axes)
    fits = missing > 0 or set(axes[0].size) == {1} or axes[0].size == batch.size
    if missing < 0 or not fits or 0 in [d + missing for d in gap.dims]:
        return f"'{gap.origin}' belongs to its tokens and has no batch in front"
    return ""


def _fault(marked: Marked, axis: Axis, reached: set[str]) -> str | None:
    analysis = marked.analysis
    if axis.kind is not Kind.ATOM:
        return f"its tokens are laid out as {axis}, in windows or space"
    if axis.frozen:
        return f"behind it, {axis.frozen}"
    for held in analysis.uses:
        if any(meets(a, axis) for a in held.axes):
            return f"the constant '{held.constant.name}' belongs to fixed positions ({held.node.op} '{held.node.name}')"
    for use in analysis.statistics:
        if meets(use.axis, axis) and use.node.op != "Softmax":
            return f"{use.node.op} '{use.node.name}' has a statistic over its tokens"
    softmaxes = {id(n) for n in analysis.model.graph.nodes if n.op == "Softmax"}
    attended = {t for n in analysis.model.graph.nodes if id(n) in softmaxes for t in (n.outputs[0].name,)}
    for use in analysis.contractions:
        if meets(use.axis, axis) and not _is_attended(analysis, use.node, attended):
            return f"{use.node.op} '{use.node.name}' sums over its tokens"
    for name, axes in analysis.axes.items():
        if name not in reached and any(meets(a, axis) for a in axes):
            return f"'{name}', which is not behind it, has the same length"
    return None


def _is_attended(analysis: Analysis, node: gs.Node, attended: set[str]) -> bool:
    """Whether one operand comes from a softmax by way of elementwise nodes."""
    waiting = list(node.inputs)
    for _ in range(20):
        if not waiting:
            return False
        tensor = waiting.pop(0)
        if tensor.name in attended:
            return True
        if tensor.inputs and tensor.inputs[0].op in (
            "Where",
            "Cast",
            "Identity",
            "Dropout",
            "Mul",
            "Reshape",
            "Transpose",
        ):
            waiting += tensor.inputs[0].inputs
    return False


def _reached(marked: Marked, group: Group) -> set[str]:
    """Names of the gaps and of what depends on them."""
    found: set[str] = set()
    holes = {g.hole.name for g in group.gaps if g.kind != "back"}
    found |= holes
    for node in marked.model.graph.nodes:
        if any(t.name in found for t in node.inputs):
            found |= {t.name for t in node.outputs}
    return found


def useless(marked: Marked) -> dict[Site, Refusal]:
    """Sites of token axes behind which hardly anything would get cheaper: windows that are put together at once."""
    cost = CostModel(marked.analysis, -1)
    whole = cost.macs({})
    found: dict[Site, Refusal] = {}
    for group in marked.groups:
        axes = [axis for axis in map(marked.axis, group.shorts()) if axis is not None]
        if whole - cost.macs({axis: axis.size[-1] // 2 for axis in axes}) < LEAST_SAVING * whole:
            why = f"its {group.tokens} tokens are windows or the end of the model: nothing behind it would get cheaper"
            found |= {site: Refusal(site.tensor, why) for site in group.sites}
    return found
