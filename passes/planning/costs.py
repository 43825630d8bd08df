"""Budgets as costs that the planners follow: sums over an analysed graph, and the largest sum where memory counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pruneopt.analysis.cost import CostModel
from pruneopt.analysis.infer import Analysis
from pruneopt.analysis.memory import live_tensors
from pruneopt.passes.planning.tally import Limit, Tally, Term, Volume


def limits(analysis: Analysis, budgets: Mapping[str, float], before: Analysis | None = None) -> list[Limit]:
    """Budgets as shares of what a graph costs at the larger observed input size.

    Args:
        analysis: of the graph to shrink.
        budgets: `macs`, `params`, `bytes` or `memory`, each with the share to keep at most.
        before: of the graph whose cost is shared out, where that is another one: a change of basis may add to it.
    """
    if before is not None and before is not analysis:
        wholes = [each.whole for each in limits(before, budgets)]
        return [replace(own, whole=w) for own, w in zip(limits(analysis, budgets), wholes, strict=True)]
    cost = CostModel(analysis, -1)
    terms: dict[str, list[Term]] = {
        "macs": [Volume(axes) for axes in cost.macs_terms],
        "params": [Volume(axes) for axes in cost.params_terms],
        "bytes": [Volume(axes, each) for axes, each in cost.bytes_terms],
    }
    return [
        memory_limit(analysis, share) if name == "memory" else limit(name, terms[name], share)
        for name, share in budgets.items()
    ]


def limit(name: str, terms: list[Term], share: float, spans: list[slice] | None = None) -> Limit:
    """A share of the cost that these terms have as the graph is."""
    whole = Tally(Limit(name, terms, 0.0, share, spans)).total
    return Limit(name, terms, whole, share, spans)


def memory_limit(analysis: Analysis, share: float) -> Limit:
    """A share of the peak of live activation bytes."""
    known = [t for t in live_tensors(analysis.model.graph) if t.name in analysis.axes]
    terms: list[Term] = [Volume(tuple(analysis.axes[t.name]), t.itemsize) for t in known]
    return limit("memory", terms, share, [t.span for t in known])
