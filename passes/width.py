"""Removes width: channels, groups, heads, head widths, neurons, embedding dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from pruneopt.analysis.axes import Axis, atoms
from pruneopt.analysis.explain import inspect_analysis
from pruneopt.analysis.groups import Group, find_groups
from pruneopt.analysis.infer import Analysis, analyse
from pruneopt.analysis.masks import Mask
from pruneopt.analysis.observe import derived_tensors
from pruneopt.arrays import Array
from pruneopt.errors import PruneoptError, UsageError
from pruneopt.model import Model
from pruneopt.passes.base import Outcome
from pruneopt.passes.context import Context
from pruneopt.passes.criteria import WEIGHTS_ONLY, find_criterion
from pruneopt.passes.exact.duplicates import merge_duplicates
from pruneopt.passes.exact.identities import drop_dead
from pruneopt.passes.factor import Factor, wasted
from pruneopt.passes.learning.gradients import gradients
from pruneopt.passes.options import Budgeted, check_names, check_share
from pruneopt.passes.pipeline import Pipeline
from pruneopt.passes.planning.confirm import confirmed
from pruneopt.passes.planning.costs import limits, met, whole_costs
from pruneopt.passes.planning.kinds import KINDS, kinds_of
from pruneopt.passes.planning.latency import Stopwatch
from pruneopt.passes.planning.measured import foreseen, plan, survey, told
from pruneopt.passes.planning.redistribute import redistributed
from pruneopt.passes.planning.spared import spared
from pruneopt.passes.planning.tally import Limit
from pruneopt.passes.planning.uniform import leaders, share, within
from pruneopt.passes.rewriting.masked import Masked
from pruneopt.passes.rewriting.shrink import shrink, shrunk_sizes
from pruneopt.passes.rivals import better
from pruneopt.passes.rotate import Rotate
from pruneopt.passes.statistics.evidence import Evidence, gather
from pruneopt.passes.statistics.stream import hold_out, small_batches
from pruneopt.passes.unmerge import Unmerge


@dataclass(frozen=True)
class Width(Budgeted):
    """Remove entries of groups: structure, score, amount, rewrite.

    Attributes:
        ratio: share kept of each group; or one or more of the budgets below.
        macs: share of the multiply-accumulates to keep at most.
        params: share of the parameters to keep at most.
        bytes: share of the weights' bytes to keep at most.
        memory: share of the peak of live activation bytes to keep at most.
        latency: share of the measured latency to keep at most, with the threads of the run.
        criterion: name of the score (`passes.criteria`); without one, `obs` where there is calibration data, else `l2`.
        plan: `measured` (least damage by calibration data), `uniform`, or `redistributed` (NViT's proportions); by
            default what the criterion calls for.
        basis: `svd` turns widths that are linear all round into their principal directions first (`unmerge`,
            `rotate`) and gives classifiers of very many classes a width of their own (`factor`), `none` does not; by
            default svd where the plan is measured.
        coupled: also groups under a norm or another statistic, where removal is approximate. A measured plan has
            those under an RMSNorm, whose divisor can be kept, by itself.
        align: weight widths stay multiples of this, as far as groups are large enough.
        floor: share of each group that is kept in any case.
        only: glob pattern of group or tensor names to prune.
        axes: kinds of widths to prune, of `inner`, `heads`, `score`, `value`, `stream` joined by `+`
            (`passes.planning.kinds`); all by default.
        against: criterion whose uniform plan is carried out, too, where a measured plan that nobody asked for does
            harm; the better one on held-out data is taken (`passes.rivals`). `none` does not look.
        loss: what criteria of gradients differentiate: `module:function`, called with (outputs by name, batch),
            `labels` or `argmax`; by default the distance to the model's own outputs (`passes.learning.losses`).
    """

    ratio: float | None = None
    macs: float | None = None
    params: float | None = None
    bytes: float | None = None
    memory: float | None = None
    latency: float | None = None
    criterion: str | None = None
    plan: str | None = None
    basis: str | None = None
    coupled: bool = False
    align: int = 8
    floor: float = 0.1
    only: str = "*"
    axes: str = "+".join(KINDS)
    against: str = "l2"
    loss: str | None = None

    def __post_init__(self) -> None:
        for name in ("ratio", *self.known_budgets(), "floor"):
            check_share("width", name, getattr(self, name))
        check_names("width", "plan", [self.plan], ("measured", "uniform", "redistributed"))
        check_names("width", "axis", self.axes.split("+"), KINDS)
        check_names("width", "basis", [self.basis], ("svd", "none"))
        if self.against != "none":
            find_criterion(self.against)
        if self.align < 1:
            raise UsageError(f"width: align={self.align} is not a positive number")
        if self.ratio is None and not self.budgets:
            known = ", ".join(self.known_budgets())
            raise UsageError(f"width: say how much to keep, with ratio or a budget ({known})")

    def run(self, model: Model, context: Context) -> Outcome:
        """Analyse, plan, select and rewrite; a plan that nobody asked for must be better than a simple one."""
        if self.ratio is None and met(self.budgets, model, context):
            return Outcome(model, {"note": "width: the model was within the budget already"})
        made = self._carried_out(model, context)
        if not self._has_rival(context):
            return made
        simple = replace(self, criterion=self.against, plan="uniform")
        names = ("measured", f"uniform {self.against}")
        return better(made, lambda: simple._carried_out(model, context), names, context)

    def _has_rival(self, context: Context) -> bool:
        chosen_here = self.criterion is None and self.plan is None and self._measures(context)
        return chosen_here and self.against != "none" and min(self.budgets.values()) < 1

    def trade_off(self, model: Model, context: Context) -> list[dict[str, float]]:
        """What each share of the costs is predicted to do, from the whole model down; see `planning.measured`."""
        _, analysis, groups, evidence = self._seen(model, context)
        points: list[dict[str, float]] = self._told(analysis, groups, evidence, context).get("trade_off", [])
        return points

    def _seen(
        self, model: Model, context: Context, leave: str = ""
    ) -> tuple[dict[str, Any], Analysis, list[Group], Evidence]:
        """What a plan is made of, looked at once per run, and what there is to say of the basis.

        `leave`: the wide products that are not made two.
        """
        turned, said = self._turned(model, context, leave)
        study = (self.coupled, self.only, self.axes, self.criterion, self.loss, self._measures(context))
        found = context.once((id(turned), *study), lambda: self._study(turned, context))
        return said, *found

    def _carried_out(self, model: Model, context: Context, leave: str = "") -> Outcome:
        said_before, analysis, groups, evidence = self._seen(model, context, leave)
        if context.calibration:
            batches = context.calibration
            evidence.learn = lambda: gradients(analysis.model, batches, self.loss, context.seed)
            evidence.look = lambda names: context.session(analysis.model, names).run(batches[0])
        kept, said = self._kept(analysis, groups, evidence, context)
        whole = [name for entry in said_before.get("basis", ()) for name in wasted(entry, analysis, kept)]
        if whole:
            return self._carried_out(model, context, "|".join([*whole, leave]))
        if self._measures(context):
            said |= {"foreseen": foreseen(groups, kept, evidence)}
        masks = self._select(groups, kept, evidence)
        small = _cut(analysis, masks)
        sizes = shrunk_sizes(analysis, masks)
        if derived_tensors(small.graph):  # their values would have to be measured
            context.looks(small, sizes)
        else:
            context.seen(small, sizes)
        entry = said_before | said | self._told(analysis, groups, evidence, context)
        return Outcome(small, entry | {"groups": _entries(groups, masks)}, Masked(analysis, masks, model))

    def _study(self, model: Model, context: Context) -> tuple[Analysis, list[Group], Evidence]:
        """What there is to prune, and what the calibration data says of it."""
        analysis = analyse(model, context.observation(model), context.keep)
        measured = self._measures(context)
        groups = [g for g in find_groups(analysis) if self._wants(g, analysis, measured)]
        kinds = kinds_of(groups, analysis)
        groups = [g for g in groups if kinds[g] in self.axes.split("+")]
        if not context.calibration or (self.criterion in WEIGHTS_ONLY and not measured):
            return analysis, groups, Evidence(analysis, context.seed)
        batches = small_batches(context)
        if measured:
            evidence = survey(analysis, groups, context, batches)
            if self.criterion in (None, "obs"):  # curves are all that they look at
                evidence.moments.clear()
                evidence.pairs.clear()
            return analysis, groups, evidence
        context.progress("statistics")
        return analysis, groups, gather(analysis, [g.atom for g in groups], context, hold_out(batches)[0])

    def _measures(self, context: Context) -> bool:
        """Whether the plan is made from what calibration data says."""
        if self.plan is not None or not context.calibration or self.ratio is not None:
            return self.plan == "measured" and self.ratio is None
        return self.criterion in (None, "obs")

    def _turned(self, model: Model, context: Context, leave: str) -> tuple[Model, dict[str, Any]]:
        """The model in the basis to plan in, proved to be the same, and what there is to say of it."""
        wanted = self.basis == "svd" or (self.basis is None and self._measures(context))
        if not wanted or not context.calibration:
            return model, {}
        turning = Pipeline((Unmerge(), Rotate(), Factor(leave)))
        before = context.aim, context.claim  # a claim holds the model between the steps
        outcome, _ = context.once((id(model), "basis", leave), lambda: (turning.run(model, context), model))
        context.aim, context.claim = before
        return outcome.model, {"basis": outcome.entry["passes"]}

    def _wants(self, group: Group, analysis: Analysis, measured: bool) -> bool:
        if group.coupled and not self.coupled and not (measured and keeps_divisor(group, analysis)):
            return False
        names = (group.name, *(t.use.constant.name for t in group.touches))
        return any(fnmatchcase(name, self.only) for name in names)

    def _kept(
        self, analysis: Analysis, groups: Sequence[Group], evidence: Evidence, context: Context
    ) -> tuple[dict[Axis, int], dict[str, Any]]:
        """How many entries of each atom stay, and what there is to say of how that was found."""
        if self.ratio is not None:
            return share(leaders(groups), self.ratio, self.align, self.floor), {}
        counted = {n: v for n, v in self.budgets.items() if n != "latency"}
        fixed = limits(analysis, counted, whole_costs(analysis.model, context))

        def solve(more: Sequence[Limit] = ()) -> dict[Axis, int]:
            return self._planned(groups, [*fixed, *more], evidence, context)

        def build(kept: dict[Axis, int]) -> Model:
            return _cut(analysis, self._select(groups, kept, evidence))

        try:
            if self.latency is None:
                return solve(), {}
            watch = self._watch(analysis, groups, context)
            kept, rounds = confirmed(self.latency, solve, build, watch, context.progress)
            return kept, {"latency": rounds}
        except PruneoptError as error:
            raise PruneoptError(
                str(error), **error.details, frozen=inspect_analysis(analysis).frozen()
            ) from None

    def _planned(
        self, groups: Sequence[Group], budgets: Sequence[Limit], evidence: Evidence, context: Context
    ) -> dict[Axis, int]:
        if self._measures(context):
            return plan(groups, budgets, evidence, self.align, self.floor)
        if self.plan == "redistributed":
            kinds = kinds_of(groups, evidence.analysis)
            return redistributed(groups, kinds, budgets, self.align, self.floor)
        if self.plan is None and any(limit.uneven for limit in budgets):
            (macs,) = limits(evidence.analysis, {"macs": 1.0})
            return spared(groups, macs, budgets, self.align, self.floor)
        return within(groups, budgets, self.align, self.floor)

    def _watch(self, analysis: Analysis, groups: Sequence[Group], context: Context) -> Stopwatch:
        """What is known of the kernels' times, measured once per run."""
        made: Stopwatch = context.once(
            (id(analysis), "latency"), lambda: Stopwatch(analysis, groups, context)
        )
        return made

    def _told(
        self, analysis: Analysis, groups: Sequence[Group], evidence: Evidence, context: Context
    ) -> dict[str, Any]:
        """For the report: what stays and why, and what was known when the plan was made."""

        def tell() -> dict[str, Any]:
            frozen = {"frozen": inspect_analysis(analysis).frozen()}
            if not evidence.rates:
                return frozen
            known = limits(analysis, {"macs": 1.0}, whole_costs(analysis.model, context))
            if self.latency is not None:
                known.append(self._watch(analysis, groups, context).limit(1.0))
            return frozen | told(groups, known, evidence, self.align, self.floor)

        told_before: dict[str, Any] = context.once((id(analysis), "told", self.latency is None), tell)
        return dict(told_before)

    def _select(self, groups: Sequence[Group], kept: dict[Axis, int], evidence: Evidence) -> dict[Axis, Mask]:
        score = find_criterion(self._score(evidence))
        return {
            g.atom: best(score(g, evidence), kept[g.atom])
            for g in groups
            if kept.get(g.atom, g.size) < g.size
        }

    def _score(self, evidence: Evidence) -> str:
        return self.criterion or ("obs" if evidence.moments or evidence.curves else "l2")


def _cut(analysis: Analysis, masks: dict[Axis, Mask]) -> Model:
    """The smaller model; copies of tables (`unshare`) that were not cut apart are one again."""
    small = shrink(analysis, masks)
    merge_duplicates(small.graph)
    drop_dead(small.graph)
    return small


def keeps_divisor(group: Group, analysis: Analysis) -> bool:
    """Whether all that runs over a group are sums whose divisors stay: what is removed counts as zero, exactly."""
    return not any(group.atom in atoms(use.axis) for use in analysis.statistics)


def best(scores: Array, count: int) -> Mask:
    """The mask that keeps the `count` largest scores; of equals the first. Shape [size]."""
    mask = np.zeros(scores.size, bool)
    mask[np.argsort(-scores, kind="stable")[:count]] = True
    return mask


def _entries(groups: Sequence[Group], masks: dict[Axis, Mask]) -> list[dict[str, Any]]:
    return [
        {
            "name": g.name,
            "size": g.size,
            "kept": int(masks[g.atom].sum()) if g.atom in masks else g.size,
            "coupled": g.coupled,
            "tensors": [str(t) for t in g.touches],
        }
        for g in groups
    ]
