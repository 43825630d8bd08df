"""Depth, length and width under one budget: what goes along which axis is decided by what it costs at the outputs.

Outer options (which blocks go, how many tokens stay) are weighed one by one; width takes the rest of the budget,
and its damage is read off the curve of the whole model. The plans along a single axis are carried out first:
what they turn out to cost says what the predictions of each axis are worth. Then the most promising mixed plans
are carried out, too, each with the repair of its widths, and all are compared with the whole model on batches
that nothing was fitted to. So the result is at least as good there as the best single axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

from pruneopt.errors import PruneoptError, UsageError
from pruneopt.model import Model
from pruneopt.passes.base import Context, Outcome, Pass, Pipeline
from pruneopt.passes.planning.joint_options import (
    Option,
    Scale,
    Trial,
    WidthCurve,
    depth_options,
    length_options,
    width_curve,
)
from pruneopt.passes.repair import Repair
from pruneopt.passes.statistics.stream import hold_out, split_batches
from pruneopt.passes.width import BUDGETS, Width

AXES = ("depth", "length", "width")
WHOLE = Option()
FEW = 8  # batches on which options are weighed
SLACK = 1e-6  # of a budget: rounding
ROUNDS = 3  # of width, until what it leaves is within the budget
PATIENCE = 3.0  # times the damage of the best so far: what is predicted to do more is not carried out


@dataclass(frozen=True)
class Plan:
    """One option of each axis.

    Attributes:
        depth, length: what goes first.
        rest: what width may keep of each cost after that, as predicted.
        harm: predicted damage of each axis that takes part.
    """

    depth: Option
    length: Option
    rest: dict[str, float]
    harm: dict[str, float]

    @property
    def axes(self) -> tuple[str, ...]:
        """Those that take part."""
        return tuple(self.harm)

    def words(self) -> str:
        """The plan in one line."""
        rest = min(self.rest.values())
        return f"depth: {self.depth.name}; length: {self.length.name}; width: {rest:.2f} of what these leave"

    def predicted(self, worth: dict[str, float]) -> float:
        """Damage, each axis by what its predictions are worth."""
        return sum(worth.get(axis, 1.0) * harm for axis, harm in self.harm.items())


@dataclass(eq=False)
class Tried:
    """A plan that was carried out: its model, what the passes said, its damage on held-out data, or why it failed."""

    plan: Plan
    predicted: float
    model: Model | None = None
    passes: list[dict[str, Any]] = field(default_factory=list)
    shares: dict[str, float] = field(default_factory=dict)
    damage: float = inf
    why: str = ""

    def row(self) -> dict[str, Any]:
        """For the report."""
        row = {
            "axes": "+".join(self.plan.axes) or "none",
            "depth": self.plan.depth.name,
            "length": self.plan.length.name,
            "width": min(self.plan.rest.values()),
            "predicted": self.predicted,
        }
        return row | ({"skipped": self.why} if self.why else {"damage": self.damage, "kept": self.shares})


@dataclass(frozen=True)
class Joint:
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
            if not 0 < value <= 1:
                raise UsageError(f"joint: {name}={value:g} is not in (0, 1]; it is the share to keep")
        if not self.budgets:
            raise UsageError(f"joint: say how much to keep, with one or more of {', '.join(BUDGETS)}")
        if unknown := set(self.axes.split("+")) - set(AXES):
            raise UsageError(f"joint: there is no axis '{min(unknown)}'; choose from {', '.join(AXES)}")
        if self.tries < 0:
            raise UsageError(f"joint: tries={self.tries} is not a number of plans")

    @property
    def budgets(self) -> dict[str, float]:
        """The budgets that are set."""
        return {n: getattr(self, n) for n in BUDGETS if getattr(self, n) is not None}

    def run(self, model: Model, context: Context) -> Outcome:
        """Weigh the options, carry out the best plans, keep the one of least damage on held-out data.

        Raises:
            UsageError: there is no calibration data.
            PruneoptError: no plan meets the budgets; the message says what stands against each axis.
        """
        if not context.calibration:
            raise UsageError("joint: what each axis costs has to be measured on real inputs; give --calib")
        fit, held = hold_out(split_batches(context.calibration))
        scale = Scale(model, self.budgets, context)
        options, refused = self._options(scale, fit[:: max(1, len(fit) // FEW)][:FEW])
        judge, wide = Trial(model, held, context), options.width is not None
        tried = [_carried_out(plan, plan.predicted({}), wide, scale, judge) for plan in options.singles()]
        worth = _worth(tried)
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

    def _options(self, scale: Scale, batches: Sequence[Any]) -> tuple[_Options, dict[str, str]]:
        """What each axis offers, and why others offer nothing."""
        found, refused = _Options(scale), {}
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


class _Options:
    """What each axis offers, and the plans that follow."""

    def __init__(self, scale: Scale) -> None:
        self.scale = scale
        self.depth, self.length = [WHOLE], [WHOLE]
        self.width: WidthCurve | None = None

    def plans(self) -> list[Plan]:
        """All combinations that are predicted to meet the budgets, with no more of an axis than is needed."""
        found = []
        for depth in self.depth:
            for length in self.length:
                rest = self.scale.rest(depth.shares, length.shares)
                done = min(rest.values()) >= 1 - SLACK
                width = 0.0 if done else self.width.at(rest) if self.width else inf
                harm = {"depth": depth.damage} if depth is not WHOLE else {}
                harm |= {"length": length.damage} if length is not WHOLE else {}
                harm |= {} if done else {"width": width}
                if width < inf:
                    found.append(Plan(depth, length, rest, harm))
        return found

    def singles(self) -> list[Plan]:
        """All plans along one axis alone, or along none."""
        return [plan for plan in self.plans() if len(plan.axes) < 2]

    def mixed(self, worth: dict[str, float]) -> list[Plan]:
        """The others, the least damage first; of each set of blocks and way to shorten the best only."""
        best: dict[tuple[str, str], Plan] = {}
        for plan in sorted((p for p in self.plans() if len(p.axes) > 1), key=lambda p: p.predicted(worth)):
            best.setdefault((plan.depth.name, plan.length.name.partition(" ")[0]), plan)
        return list(best.values())


def _carried_out(plan: Plan, predicted: float, wide: bool, scale: Scale, judge: Trial) -> Tried:
    """Blocks first, then tokens; width gets what then is left of each budget, where it may, and is repaired."""
    context, tried = scale.context, Tried(plan, predicted)
    context.claim = context.aim = None  # those of another plan say nothing of this one
    context.progress(f"try {plan.words()}")
    try:
        model = _run((*plan.depth.passes, *plan.length.passes), scale.model, tried, context)
        tried.plan = replace(plan, rest=scale.rest(scale.shares(model)))
        if min(tried.plan.rest.values()) < 1 - SLACK:
            if not wide:
                raise PruneoptError("together they do not meet the budget, and width takes no part")
            model = _narrowed(model, tried, scale)
    except PruneoptError as error:
        tried.why = str(error)
        return tried
    tried.model, tried.shares, tried.damage = model, scale.shares(model), judge.damage(model)
    return tried


def _narrowed(model: Model, tried: Tried, scale: Scale) -> Model:
    """What width makes of the rest, repaired; it plans on a turned model, which may cost a little more at first."""
    context, done = scale.context, list(tried.passes)
    rest: dict[str, Any] = tried.plan.rest
    for _ in range(ROUNDS):
        tried.passes = list(done)
        small = _run((Width(**rest),), model, tried, context)
        over = scale.over(small)
        if over <= 1 + SLACK:
            return _run((Repair(),), small, tried, context)
        rest = {name: share if name == "latency" else share / over for name, share in rest.items()}
    raise PruneoptError(f"width does not reach the rest of the budget: {over - 1:.1%} are missing")


def _run(passes: Sequence[Pass], model: Model, tried: Tried, context: Context) -> Model:
    outcome = Pipeline(passes).run(model, context)
    tried.passes += outcome.entry["passes"]
    return outcome.model


def _worth(tried: Sequence[Tried]) -> dict[str, float]:
    """What was measured as a share of what was predicted, by axis; repair and unseen data are in it.

    Of several plans along an axis the one of least predicted damage counts.
    """
    alone = [
        each for each in tried if each.model is not None and len(each.plan.axes) == 1 and each.predicted > 0
    ]
    alone.sort(key=lambda each: -each.predicted)
    return {each.plan.axes[0]: each.damage / each.predicted for each in alone}


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
