"""Exchange rates: what a group's error is worth at the outputs of the model.

A group loses a little and then much, its consumers are refitted and all else is left as it is; the damage that
this does at the outputs says what the errors on its curve are worth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from pruneopt.passes.statistics.stream import split_batches

Array = npt.NDArray[Any]
FORWARDS = 6.0  # passes over the calibration set that all probes together may take
SHARES = (0.125, 0.5)  # of a group that its probes lose
EVERYWHERE = (0.0625, 0.25)  # where everything reads the group
ROWS = 8  # in one run of a probe, at most


@dataclass(frozen=True)
class Worth:
    """Damage as a function of error: a power law between the points measured, in proportion outside.

    Attributes:
        errors: rising, at least one; shape [points].
        damages: not falling; shape [points].
    """

    errors: tuple[float, ...]
    damages: tuple[float, ...]

    def at(self, error: Array) -> Array:
        """Damage at these errors, any shape."""
        known, found = np.array(self.errors), np.array(self.damages)
        inside = np.clip(error, known[0], known[-1])
        between = np.exp(np.interp(np.log(inside), np.log(known), np.log(found)))
        return np.asarray(between * error / inside)


def rates(
    curves: Mapping[Group, Curve],
    evidence: Evidence,
    context: Context,
    batches: Sequence[Feeds],
    part: float = 1.0,
) -> dict[Group, Worth]:
    """What the error of each group is worth; these groups may take `part` of all forwards."""
    model = evidence.analysis.model
    few = _few(batches, sum(len(_shares(group)) for group in curves) / max(part, 1e-6))
    probabilities = distributions(model.graph)
    dense = outputs(model, context, few)
    found = {}
    for group, each in curves.items():
        points: list[tuple[float, float]] = []
        for count in dict.fromkeys(max(1, int(share * group.size)) for share in _shares(group)):
            probe = reduced(group, each.order[:count], evidence)
            made = damage(dense, outputs(probe, context, few), probabilities)
            points.append((float(each.error[count]), made))
        found[group] = _worth(points)
    return found


def _shares(group: Group) -> tuple[float, ...]:
    return EVERYWHERE if group.coupled else SHARES


def _few(batches: Sequence[Feeds], probes: float) -> list[Feeds]:
    """Pieces of batches, spread evenly over all, so that all probes together stay within their forwards."""
    pieces = split_batches(batches, ROWS)
    count = int(np.clip(FORWARDS * len(pieces) / max(probes, 1), min(2, len(pieces)), len(pieces)))
    return [pieces[i] for i in np.linspace(0, len(pieces) - 1, count).round().astype(int)]


def _worth(points: Sequence[tuple[float, float]]) -> Worth:
    tiny = np.finfo(float).tiny
    errors: list[float] = []
    damages: list[float] = []
    for error, made in points:
        if not errors or error > errors[-1] * (1 + 1e-6):
            errors.append(max(error, tiny))
            damages.append(max(made, tiny, *damages[-1:]))
    return Worth(tuple(errors), tuple(damages))


def reduced(group: Group, gone: Array, evidence: Evidence) -> Model:
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
    covariance, full = view.moments.covariance, view.weight
    conv = view.consumer.node.op == "Conv"
    added = ridge(covariance, 1e-3 if conv else 0.05, own=not conv)
    weight = refit(full, covariance, full @ covariance, added, keep)
    return weight, np.einsum("gof,gf->go", full - weight, view.moments.mean).reshape(-1)
