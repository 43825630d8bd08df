"""From the marked graph and the plans to a model: sizes written, gaps filled, order restored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_graphsurgeon as gs

from pruneopt.analysis.axes import Axis
from pruneopt.analysis.tokens import Tokens
from pruneopt.model import Model
from pruneopt.passes.length.counting import WHOLE
from pruneopt.passes.length.emit import order
from pruneopt.passes.length.filling import Filled, Filler, Plan
from pruneopt.passes.length.gaps import Marked
from pruneopt.passes.length.schedule import lengths
from pruneopt.passes.length.writing import write_lengths


def rewrite(tokens: Tokens, marked: Marked, plans: Sequence[Plan]) -> tuple[Model, list[Filled]]:
    """The model with the tokens that `plans` leave, and what was put into it."""
    sizes: dict[Axis, tuple[int, ...]] = {}
    for group, plan in zip(marked.groups, plans, strict=True):
        by_run = [lengths(plan.stages, plan.method, n) for n in group.tokens.size]
        if plan.method == "static":
            by_run = [[len(p) for p in plan.places]] * len(by_run)
        for gap in group.shorts():
            axis = marked.axis(gap)
            if axis is not None:
                sizes[axis] = tuple(run[gap.level - 1] for run in by_run)
        for gap in group.of("back"):  # sizes that were computed from shorter tensors are computed anew
            axis = marked.axis(gap)
            if axis is not None:
                sizes.setdefault(axis, axis.size)
    model = write_lengths(marked.analysis, sizes)
    _put_back(model, marked)
    filled = [Filler(model, tokens, g, p).fill() for g, p in zip(marked.groups, plans, strict=True)]
    return order(_cleaned(model)), filled


def _put_back(model: Model, marked: Marked) -> None:
    """The nodes that read single places at the front."""
    known = model.graph.tensors()
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


def entry_of(filled: Filled) -> dict[str, Any]:
    group, plan = filled.group, filled.plan
    by_run = [lengths(plan.stages, plan.method, n) for n in group.tokens.size]
    return {
        "method": plan.method,
        "tokens": list(dict.fromkeys(group.tokens.size)),
        "front": group.front,
        "stages": [
            {
                "behind": site.tensor,
                "share": stage.parts / WHOLE,
                "left": list(dict.fromkeys(run[i] for run in by_run)),
            }
            for i, (site, stage) in enumerate(zip(group.sites, plan.stages, strict=True))
        ],
        "all_back": len(group.of("back")),
        "gathered_along": len(group.of("along")),
    }
