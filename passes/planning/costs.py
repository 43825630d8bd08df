"""Budgets as costs that the planners follow: sums over an analysed graph, and the largest sum where memory counts.

Every share is one of what the model costs that the user gave: what exact rewrites or passes before have saved counts.
"""

from __future__ import annotations

from collections.abc import Mapping

from pruneopt.analysis.cost import CostModel
from pruneopt.analysis.infer import Analysis, analyse
from pruneopt.analysis.memory import live_tensors
from pruneopt.arrays import Feeds
from pruneopt.model import Model
from pruneopt.passes.context import Context
from pruneopt.passes.planning.tally import Limit, Tally, Term, Volume

COUNTED = ("macs", "params", "bytes", "memory")  # at the larger observed input size; latency is measured
COMPARED = 2.0  # seconds that two models are timed in turns
Costs = Mapping[str, float]


def limits(analysis: Analysis, budgets: Mapping[str, float], whole: Costs | None = None) -> list[Limit]:
    """Counted budgets for the graph to shrink, each with the share to keep at most.

    Args:
        analysis: of the graph.
        budgets: shares by name, of COUNTED.
        whole: the costs that are shared out; the graph's own by default.
    """
    cost = CostModel(analysis, -1)
    terms: dict[str, list[Term]] = {
        "macs": [Volume(axes) for axes in cost.macs_terms],
        "params": [Volume(axes) for axes in cost.params_terms],
        "bytes": [Volume(axes, each) for axes, each in cost.bytes_terms],
    }
    return [
        _memory(analysis, share, whole) if name == "memory" else _limit(name, terms[name], share, whole)
        for name, share in budgets.items()
    ]


def costs_of(model: Model, context: Context) -> Costs:
    """What a model costs, by name."""
    analysis = analyse(model, context.sizes(model))
    return {each.name: each.whole for each in limits(analysis, dict.fromkeys(COUNTED, 1.0))}


def whole_costs(model: Model, context: Context) -> Costs:
    """What the model costs that the user gave, of which `model` was made; counted once per run."""
    original = context.original or model
    counted: tuple[Model, Costs] = context.once(
        (id(original), "costs"), lambda: (original, costs_of(original, context))
    )
    return counted[1]


def shares_of(model: Model, context: Context) -> dict[str, float]:
    """What `model` costs, as shares of what the model costs that the user gave."""
    whole = whole_costs(model, context)
    own = whole if model is context.original else costs_of(model, context)
    return {name: cost / (whole[name] or 1.0) for name, cost in own.items()}


def latency_of(model: Model, feeds: Feeds, context: Context) -> float:
    """A model's latency as a share of the latency of the model that the user gave, in turns."""
    original = context.original or model
    if model is original:
        return 1.0
    _, timing = context.backend.compare(original, model, feeds, context.threads, COMPARED)
    return timing.ratio_to_first


def met(budgets: Mapping[str, float], model: Model, context: Context) -> bool:
    """Whether a model is within all budgets as it is."""
    counted = shares_of(model, context)
    if any(counted[name] > share for name, share in budgets.items() if name in counted):
        return False
    return "latency" not in budgets or latency_of(model, context.feeds[-1], context) <= budgets["latency"]


def _limit(
    name: str, terms: list[Term], share: float, whole: Costs | None, spans: list[slice] | None = None
) -> Limit:
    own = Tally(Limit(name, terms, 0.0, share, spans)).total if whole is None else whole[name]
    return Limit(name, terms, own, share, spans)


def _memory(analysis: Analysis, share: float, whole: Costs | None) -> Limit:
    """The peak of live activation bytes."""
    known = [t for t in live_tensors(analysis.model.graph) if t.name in analysis.axes]
    terms: list[Term] = [Volume(tuple(analysis.axes[t.name]), t.itemsize) for t in known]
    return _limit("memory", terms, share, whole, [t.span for t in known])
