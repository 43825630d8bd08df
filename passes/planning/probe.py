"""Exchange rates: what a group's error is worth at the outputs of the model.

A group is pruned to half, its consumers refitted and all else left as it is; the damage that this does at the
outputs, over the error on the group's curve, is the rate of the whole curve.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pruneopt.analysis.groups import Group
from pruneopt.analysis.observe import Feeds
from pruneopt.model import Model
from pruneopt.passes.base import Context
from pruneopt.passes.planning.curves import Curve
from pruneopt.passes.proof import comparison_points
from pruneopt.passes.rewriting.masked import Masked
from pruneopt.passes.rewriting.weights import bias_of, set_bias, set_weight
from pruneopt.passes.statistics.evidence import Evidence, View
from pruneopt.passes.statistics.leastsquares import refit, ridge

Array = npt.NDArray[Any]
FORWARDS = 6.0  # passes over the calibration set that all probes together may take


def rates(
    curves: Mapping[Group, Curve], evidence: Evidence, context: Context, batches: Sequence[Feeds]
) -> dict[Group, float]:
    """Damage at the outputs per error, for each group."""
    model = evidence.analysis.model
    few = list(batches[: max(2, min(len(batches), int(FORWARDS * len(batches) / max(len(curves), 1))))])
    points = comparison_points(model.graph)
    dense = _outputs(model, context, points, few)
    found = {}
    for group, each in curves.items():
        half = group.size // 2
        probe = halved(group, each.order[:half], evidence)
        error = max(float(each.error[half]), np.finfo(float).tiny)
        found[group] = damage(dense, _outputs(probe, context, points, few)) / error
    return found


def halved(group: Group, gone: Array, evidence: Evidence) -> Model:
    """The model with some entries of one group masked and their consumers refitted; no size changes."""
    keep = np.ones(group.size, bool)
    keep[gone] = False
    model, _ = next(iter(Masked(evidence.analysis, {group.atom: keep}).references()))
    nodes = {t.name: node for node in model.graph.nodes for t in node.outputs}
    for view in evidence.views(group):
        node = nodes[view.consumer.name]
        weight, moved = _without(view, ~np.isin(view.entries, gone))
        bias = bias_of(node)
        set_weight(model, node, view.consumer.stored(weight))
        set_bias(model, node, moved if bias is None else bias + moved)
    return model


def _without(view: View, keep: Array) -> tuple[Array, Array]:
    """(weight without the features that are not kept, what goes into the bias)."""
    covariance = view.moments.covariance
    conv = view.consumer.node.op == "Conv"
    added = ridge(covariance, 1e-3 if conv else 0.05, own=not conv)
    weight = refit(view.weight, covariance, view.weight @ covariance, added, keep)
    return weight, np.einsum("gof,gf->go", view.weight - weight, view.moments.mean).reshape(-1)


def damage(dense: Sequence[Mapping[str, Array]], found: Sequence[Mapping[str, Array]]) -> float:
    """Squared distance of the outputs as a share of their variance, summed over outputs."""
    total = 0.0
    for name in dense[0]:
        pairs = [
            (a[name].astype(np.float64), b[name].astype(np.float64))
            for a, b in zip(dense, found, strict=True)
        ]
        mean = np.mean([a.mean() for a, _ in pairs])
        moved = sum(float(np.square(a - b).sum()) for a, b in pairs)
        total += moved / max(sum(float(np.square(a - mean).sum()) for a, _ in pairs), np.finfo(float).tiny)
    return total


def _outputs(
    model: Model, context: Context, points: Sequence[str], batches: Sequence[Feeds]
) -> list[dict[str, Array]]:
    session = context.session(model, points)
    found = [session.run(batch) for batch in batches]
    return [
        {n: v for n, v in each.items() if isinstance(v, np.ndarray) and v.dtype.kind in "fV"}
        for each in found
    ]
