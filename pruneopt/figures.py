"""What a report says of a model before and after."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pruneopt.errors import PruneoptError

if TYPE_CHECKING:
    from pruneopt.model import Model
    from pruneopt.passes.context import Context
    from pruneopt.report import Report

# What passes say that is about the whole run.
WHOLE = ("fidelity", "calibrated", "groups", "frozen", "curves", "trade_off")
MOST_TIMED = (
    1 << 30
)  # bytes of weights: two larger models side by side would fill memory; `compare` times them


def report_of(
    before: Model, after: Model, context: Context, passes: list[dict[str, Any]], timed: bool | None
) -> Report:
    report: Report = {"input": _figures(before, context), "output": _figures(after, context)}
    report["measured_at"] = {name: list(array.shape) for name, array in context.feeds[-1].items()}
    if timed or (timed is None and report["input"]["bytes"] <= MOST_TIMED):
        context.progress("time")
        report |= _latency(before, after, context, report)
    proofs = [p["equivalence"] for p in passes if "equivalence" in p]
    if proofs:
        worst = max(p["max_rel_error"] for p in proofs)
        report["equivalence"] = {
            "max_rel_error": worst,
            "atoms_checked": sum(p["atoms_checked"] for p in proofs),
        }
    for entry in passes:
        report |= {key: entry.pop(key) for key in WHOLE if key in entry}
    return report | {"passes": passes}


def _latency(before: Model, after: Model, context: Context, report: Report) -> Report:
    """Latencies in turns; nothing where the runtime does not run the input model itself (bfloat16 on a CPU)."""
    try:
        first, second = context.backend.compare(before, after, context.feeds[-1], context.threads)
    except PruneoptError as error:
        return {"latency_note": str(error)}
    report["input"]["latency_ms"], report["output"]["latency_ms"] = first.median_ms, second.median_ms
    return {"latency_ratio": second.ratio_to_first, "latency_spread": second.spread}


def _figures(model: Model, context: Context) -> dict[str, Any]:
    """Cost of a model as it is stored; MACs at the larger of the two observed input sizes."""
    from pruneopt.analysis.cost import CostModel, stored_cost
    from pruneopt.analysis.infer import analyse
    from pruneopt.analysis.memory import activation_bytes

    sizes = context.sizes(model)
    macs = CostModel(analyse(model, sizes), -1).macs({})
    params, size = stored_cost(model)
    return {
        "params": params,
        "macs": macs,
        "bytes": size,
        "activation_bytes": activation_bytes(model, sizes),
        "nodes": len(model.graph.nodes),
    }
