"""Depth, length and width under one budget: what goes along which axis is decided by what it costs at the outputs.

Outer options (which blocks go, how many tokens stay) are weighed one by one; width takes the rest of the budget,
and its damage is read off the curve of the whole model. The plans along a single axis are carried out first:
what they turn out to cost says what the predictions of each axis are worth. Then the most promising mixed plans
are carried out, too, each with the repair of its widths, and all are compared with the whole model on batches
that nothing was fitted to. So the result is at least as good there as the best single axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any

from pruneopt.errors import PruneoptError, UsageError
from pruneopt.model import Model
from pruneopt.passes.base import Outcome, Pass
from pruneopt.passes.context import Context
from pruneopt.passes.options import Budgeted, check_names, check_share
from pruneopt.passes.pipeline import Pipeline
from pruneopt.passes.planning.joint_options import Scale, Trial, depth_options, length_options, width_curve
from pruneopt.passes.planning.joint_plans import SLACK, Choices, Plan, Tried, worth_of
from pruneopt.passes.repair import Repair
from pruneopt.passes.statistics.stream import hold_out, small_batches
from pruneopt.passes.width import Width

AXES = ("depth", "length", "width")
FEW = 8  # batches on which options are weighed
PATIENCE = 3.0  # times the damage of the best so far: what is predicted to do more is not carried out


@dataclass(frozen=True)
class Joint(Budgeted):
    """Remove blocks, tokens and widths in one plan; needs calibration data.

    Attributes:
        macs: share of the multiply-accumulates to keep at most; one or more budgets are needed.
        params: share of the parameters to keep at most.
        bytes: share of the weights' bytes to keep at most.
        memory: share of the peak of live activation bytes to keep at most.
        latency: share of the measured latency to keep at most, with the threads of the run.
        axes: which to use, of `depth`, `length`, `width`, joined by `+`.
        tries: mixed plans that are carried out, besides those along a single axis.
    """

    macs: float | None = None
    params: float | None = None
    bytes: float | None = None
    memory: float | None = None
    latency: float | None = None
    axes: str = "+".join(AXES)
    tries: int = 3

    def __post_init__(self) -> None:
        for name, value in self.budgets.items():
            check_share("joint", name, value)
        check_names("joint", "axis", self.axes.split("+"), AXES)
        if not self.budgets:
            raise UsageError(
                f"joint: say how much to keep, with one or more of {', '.join(self.known_budgets())}"
            )
        if self.tries < 0:
            raise UsageError(f"joint: tries={self.tries} is not a number of plans")

    def run(self, model: Model, context: Context) -> Outcome:
        """Weigh the options, carry out the best plans, keep the one of least damage on held-out data.

        Raises:
            UsageError: there is no calibration data.
            PruneoptError: no plan meets the budgets; the message says what stands against each axis.
        """
        if not context.calibration:
            raise UsageError("joint: what each axis costs has to be measured on real inputs; give --calib")
        fit, held = hold_out(small_batches(context))
        scale = Scale(model, self.budgets, context)
        options, refused = self._options(scale, fit[:: max(1, len(fit) // FEW)][:FEW])
        judge, wide = Trial(model, held, context), options.width is not None
        tried = [_carried_out(plan, plan.predicted({}), wide, scale, judge) for plan in options.singles()]
        worth = worth_of(tried)
        for plan in options.mixed(worth)[: self.tries]:
            predicted = plan.predicted(worth)
            hopeless = predicted > PATIENCE * min((each.damage for each in tried), default=inf)
            tried.append(
                Tried(plan, predicted, why="others do less damage than is predicted here")
                if hopeless
                else _carried_out(plan, predicted, wide, scale, judge)
            )
        done = [each for each in tried if each.model is not None]
        if not done:
            raise PruneoptError(_nothing(tried, refused), refused=refused)
        best = min(done, key=lambda each: each.damage)
        entry: dict[str, Any] = {"note": best.plan.words()}
        entry |= {
            "candidates": [each.row() for each in tried],
            "chosen": tried.index(best),
            "refused": refused,
        }
        return Outcome(best.model or model, entry | _proved(best.passes) | {"steps": best.passes})

    def _options(self, scale: Scale, batches: Sequence[Any]) -> tuple[Choices, dict[str, str]]:
        """What each axis offers, and why others offer nothing."""
        found, refused = Choices(scale), {}
        if "width" in self.axes:
            try:
                found.width = width_curve(scale.model, scale.context)
            except PruneoptError as error:
                refused["width"] = str(error)
        if "depth" in self.axes:
            try:
                found.depth += depth_options(scale)
            except PruneoptError as error:
                refused["depth"] = str(error)
        if "length" in self.axes:
            try:
                more, why = length_options(scale, Trial(scale.model, batches, scale.context))
                found.length += more
                refused |= {f"length ({method})": text for method, text in why.items()}
            except PruneoptError as error:
                refused["length"] = str(error)
        return found, refused


def _carried_out(plan: Plan, predicted: float, wide: bool, scale: Scale, judge: Trial) -> Tried:
    """Blocks first, then tokens; width sees to what the budgets still ask for, where it may; the result is repaired."""
    context, tried = scale.context, Tried(plan, predicted)
    context.claim = context.aim = None  # those of another plan say nothing of this one
    context.progress(f"try {plan.words()}")
    try:
        model = _run(plan.depth.passes, scale.model, tried, context)
        model = _run(plan.length.behind(scale.left(model)), model, tried, context)
        tried.plan = replace(plan, rest=scale.rest(scale.shares(model)))
        if min(tried.plan.rest.values()) < 1 - SLACK:
            if not wide:
                raise PruneoptError("together they do not meet the budget, and width takes no part")
            budgets: dict[str, Any] = scale.budgets
            model = _run((Width(**budgets),), model, tried, context)
        model = _run((Repair(),), model, tried, context)
    except PruneoptError as error:
        tried.why = str(error)
        return tried
    tried.model, tried.shares, tried.damage = model, scale.shares(model), judge.damage(model)
    return tried


def _run(passes: Sequence[Pass], model: Model, tried: Tried, context: Context) -> Model:
    outcome = Pipeline(passes).run(model, context)
    tried.passes += outcome.entry["passes"]
    return outcome.model


def _proved(passes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The proofs of all steps as one."""
    proofs = [each["equivalence"] for each in passes if "equivalence" in each]
    if not proofs:
        return {}
    worst = max(proof["max_rel_error"] for proof in proofs)
    counts = {n: sum(proof[n] for proof in proofs) for n in ("atoms_checked", "inside_checked")}
    return {"equivalence": {"max_rel_error": worst, **counts}}


def _nothing(tried: Sequence[Tried], refused: dict[str, str]) -> str:
    why = [*(f"{'+'.join(each.plan.axes)}: {each.why}" for each in tried), *refused.values()]
    return "joint: the budget cannot be met along any axis" + (f" ({'; '.join(why)})" if why else "")
