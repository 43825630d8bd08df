"""Exchange rates: what a group's error is worth at the outputs of the model.

A group loses a little and then much, its consumers are refitted and all else is left as it is; the damage that
this does at the outputs says what the errors on its curve are worth.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.analysis.axes import atoms
from pruneopt.analysis.groups import Group
from pruneopt.analysis.infer import Analysis
from pruneopt.arrays import Array, Feeds
from pruneopt.model import Model, makers
from pruneopt.passes.context import Context
from pruneopt.passes.planning.curves import Curve
from pruneopt.passes.planning.kinds import kinds_of
from pruneopt.passes.rewriting.masked import Masked
from pruneopt.passes.rewriting.weights import bias_of, set_bias, set_weight
from pruneopt.passes.statistics.damage import Outputs, Yardstick, kept, outputs
from pruneopt.passes.statistics.evidence import Evidence, View
from pruneopt.passes.statistics.leastsquares import refit, ridge
from pruneopt.passes.statistics.stream import Stream, split_batches

FORWARDS = 4.0  # passes over the calibration set that all probes together may take
SHARES = (0.125, 0.5)  # of a group that its probes lose
EVERYWHERE = (0.0625, 0.25)  # where everything reads the group
STEEPEST = 2.0  # power that damage may grow with beyond what was measured
ROUNDING = 1e-6  # damage that means nothing
ROWS = 8  # in one run of a probe, at most


@dataclass(frozen=True)
class Worth:
    """Damage as a function of error: a power law between the points measured, in proportion before the first.

    Behind the last it goes on as it was, in proportion at least and with the square at most.

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
        before, behind = np.minimum(error / inside, 1.0), np.maximum(error / inside, 1.0)
        return np.asarray(between * before * behind**self._steepness)

    @property
    def _steepness(self) -> float:
        if len(self.errors) < 2:
            return 1.0
        errors, damages = np.log(self.errors[-2:]), np.log(self.damages[-2:])
        return float(np.clip((damages[1] - damages[0]) / (errors[1] - errors[0]), 1.0, STEEPEST))


def rates(
    curves: Mapping[Group, Curve],
    evidence: Evidence,
    context: Context,
    batches: Sequence[Feeds],
    part: float = 1.0,
) -> dict[Group, Worth]:
    """What the error of each group is worth; these groups may take `part` of all forwards."""
    if not curves:
        return {}
    effort = _effort(list(curves), evidence, batches, part)
    probe = Probe(evidence, context, effort.pieces)

    def point(group: Group, count: int) -> tuple[float, float]:
        return float(curves[group].error[count]), probe.damage(group, curves[group].order[:count])

    found = {}
    for group in sorted(effort.probed, key=lambda g: first_node(g, evidence.analysis)):
        *less, much = dict.fromkeys(max(1, int(share * group.size)) for share in effort.shares(group))
        points = [point(group, much)]
        if points[0][1] > ROUNDING:  # a little of what does no harm does none
            points = [*(point(group, count) for count in less), *points]
        found[group] = _worth(points)
    return found | {g: between(g, effort, found, curves[g]) for g in curves if g not in found}


class Probe:
    """Damage of losing entries of one group, of one group after another in the order of their first nodes."""

    def __init__(self, evidence: Evidence, context: Context, pieces: Sequence[Feeds]) -> None:
        self.evidence = evidence
        self.context = context
        model = evidence.analysis.model
        self.names = [t.name for t in model.outputs if not isinstance(t, gs.Constant)]
        self.whole = Stream(model, context, pieces, later=self.names)
        self.yardstick = Yardstick.of(model.graph, outputs(model, context, pieces))

    def damage(self, group: Group, gone: Array) -> float:
        """Only what comes behind the group is run for it."""
        found = self._ends(self.whole.branch(reduced(group, gone, self.evidence), self._first(group)))
        if group.coupled:  # all weights that read it are new, and a dead graph waits for the collector
            gc.collect()
        return self.yardstick.damage(found)

    def _first(self, group: Group) -> gs.Node:
        nodes = self.evidence.analysis.model.graph.nodes
        return makers(self.whole.model.graph)[
            nodes[first_node(group, self.evidence.analysis)].outputs[0].name
        ]

    def _ends(self, stream: Stream) -> Outputs:
        count = len(stream.batches)
        return [
            kept(dict(zip(self.names, made, strict=True)), count, [self.context.seed, i])
            for i, made in enumerate(stream.reach(*self.names))
        ]


def first_node(group: Group, analysis: Analysis) -> int:
    """The place in the graph of the first node that runs over the group's entries: what comes before never changes."""
    place = {id(node): i for i, node in enumerate(analysis.model.graph.nodes)}
    over = (*analysis.contractions, *analysis.statistics)
    return min((place.get(id(use.node), 0) for use in over if group.atom in atoms(use.axis)), default=0)


@dataclass(frozen=True)
class Effort:
    """Which groups are probed, at how many points and with which data, so that the forwards suffice.

    Attributes:
        probed: of a long row of like groups (layers of one model) only every so many.
        pieces: of the batches, spread evenly over all.
        points: probes of each group.
        rows: groups that are alike, in graph order.
    """

    probed: list[Group]
    pieces: list[Feeds]
    points: int
    rows: list[list[Group]]

    def shares(self, group: Group) -> tuple[float, ...]:
        """Of the group, what its probes lose."""
        both = EVERYWHERE if group.coupled else SHARES
        return both if self.points == 2 else (float(np.sqrt(both[0] * both[1])),)


def _effort(groups: list[Group], evidence: Evidence, batches: Sequence[Feeds], part: float) -> Effort:
    model = evidence.analysis.model
    singles = split_batches(model, batches, 1)
    most = max(1.0, FORWARDS * part * len(singles))  # rows that all probes may run on together
    whole = len(model.graph.nodes)
    behind = {group: 1 - first_node(group, evidence.analysis) / whole for group in groups}
    runs = sum(behind.values())
    points = 2 if 2 * runs <= most else 1
    every = int(np.ceil(runs / most))
    rows: dict[tuple[str, int], list[Group]] = {}
    for group, kind in kinds_of(groups, evidence.analysis).items():
        rows.setdefault((kind, group.size), []).append(group)
    probed = [g for row in rows.values() for g in row[::every]]
    each = max(1, int(most / (points * sum(behind[g] for g in probed))))
    pieces = split_batches(model, batches, min(each, ROWS))
    count = max(1, min(len(pieces), each // min(each, ROWS)))
    spread = np.linspace(0, len(pieces) - 1, count + 2)[1:-1].round().astype(int)
    chosen = [pieces[i] for i in spread] if count < len(pieces) else pieces
    return Effort(probed, chosen, points, list(rows.values()))


def between(group: Group, effort: Effort, found: Mapping[Group, Worth], curve: Curve) -> Worth:
    """To lose the same share does what lies between the nearest like groups that were probed.

    Damage is compared, not what an error is worth: errors are shares of variances, which a few huge rows may make up.
    """
    row = next(r for r in effort.rows if group in r)
    places = [i for i, g in enumerate(row) if g in found]
    damages = [np.log(found[row[i]].damages[-1]) for i in places]
    count = max(1, int(effort.shares(group)[-1] * group.size))
    error = max(float(curve.error[count]), np.finfo(float).tiny)
    return Worth((error,), (float(np.exp(np.interp(row.index(group), places, damages))),))


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
    nodes = makers(model.graph)
    for view in (v for v in evidence.views(group) if not v.consumer.shared):
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
