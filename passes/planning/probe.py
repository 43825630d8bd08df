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
from pruneopt.passes.rewriting.masked import Masked
from pruneopt.passes.rewriting.weights import bias_of, set_bias, set_weight
from pruneopt.passes.statistics.damage import damage, distributions, outputs
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
    probabilities = distributions(model.graph)
    dense = outputs(model, context, few)
    found = {}
    for group, each in curves.items():
        half = group.size // 2
        probe = halved(group, each.order[:half], evidence)
        error = max(float(each.error[half]), np.finfo(float).tiny)
        found[group] = damage(dense, outputs(probe, context, few), probabilities) / error
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
