"""What may go along each axis before width takes the rest: sets of blocks, shares of the tokens.

Every option is made and weighed by itself, on the whole model: its costs as it stands, and its damage on a few
batches. Damages of several axes add up, and shares multiply, as far as they are small.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf, prod

import numpy as np

from pruneopt.analysis.blocks import Block, Blocks
from pruneopt.analysis.infer import analyse
from pruneopt.arrays import Feeds
from pruneopt.errors import PruneoptError, UsageError
from pruneopt.model import Model
from pruneopt.passes.base import Pass
from pruneopt.passes.context import Context
from pruneopt.passes.depth import Depth
from pruneopt.passes.depth.bypass import bypass
from pruneopt.passes.depth.depth import trial_batches
from pruneopt.passes.depth.select import Costs, Goal, greedy
from pruneopt.passes.depth.study import Study
from pruneopt.passes.length import UNASKED, Length
from pruneopt.passes.planning.costs import latency_of, shares_of
from pruneopt.passes.statistics.damage import Yardstick, outputs
from pruneopt.passes.width import Width

STEPS = (1.0, 2 / 3, 1 / 3, 1 / 6)  # of what a budget takes away: parts that length may give
SHORTENED = ("macs", "memory", "latency")  # what fewer tokens save


@dataclass(frozen=True)
class Option:
    """One thing to do along one axis.

    Attributes:
        name: for readers.
        passes: that do it to the model by itself.
        damage: at the outputs, by itself; see `statistics.damage`.
        shares: of each budget's cost that is left by it alone.
    """

    name: str = "whole"
    passes: tuple[Pass, ...] = ()
    damage: float = 0.0
    shares: Mapping[str, float] = field(default_factory=dict)

    def behind(self, left: float) -> tuple[Pass, ...]:
        """The passes behind others that have left a share of the model's own multiply-accumulates."""
        return tuple(
            replace(each, macs=each.macs * left) if isinstance(each, Length) and each.macs else each
            for each in self.passes
        )


class Scale:
    """Costs of models as shares of those of the model that the user gave.

    Attributes:
        model: that is planned for.
        budgets: name of each budget and the share to keep at most.
        own: what the model has left of each cost, before anything is planned.
    """

    def __init__(self, model: Model, budgets: Mapping[str, float], context: Context) -> None:
        self.model, self.budgets, self.context = model, dict(budgets), context
        self.own = shares_of(model, context) | self.shares(model)

    def shares(self, model: Model) -> dict[str, float]:
        """What is left of each budget's cost."""
        found = {
            name: share for name, share in shares_of(model, self.context).items() if name in self.budgets
        }
        if "latency" in self.budgets:
            found["latency"] = latency_of(model, self.context.feeds[-1], self.context)
        return found

    def left(self, model: Model) -> float:
        """What is left of the model's own multiply-accumulates."""
        return shares_of(model, self.context)["macs"] / (self.own["macs"] or 1.0)

    def rest(self, *left: Mapping[str, float]) -> dict[str, float]:
        """What width may keep of what others leave, which by themselves have left these shares; 1 where it is all."""
        return {
            name: min(1.0, share / (self._together(name, left) or 1.0))
            for name, share in self.budgets.items()
        }

    def _together(self, name: str, left: Sequence[Mapping[str, float]]) -> float:
        """The share of a cost that is left by all together, as far as what is saved multiplies."""
        own = self.own[name]
        return own * prod(each.get(name, own) / (own or 1.0) for each in left)


class Trial:
    """Damage of models on a few batches, against the whole one."""

    def __init__(self, model: Model, batches: Sequence[Feeds], context: Context) -> None:
        self.batches, self.context = batches, context
        self._yardstick = Yardstick.of(model.graph, outputs(model, context, batches))

    def damage(self, model: Model) -> float:
        """See `statistics.damage`."""
        return self._yardstick.damage(outputs(model, self.context, self.batches))


def depth_options(scale: Scale) -> list[Option]:
    """Sets of blocks in the order in which they go with least damage per saving, sub-layers and whole layers.

    The last of each order meets the budget alone where that is possible.

    Raises:
        PruneoptError: no block can go, and why.
    """
    model, context = scale.model, scale.context
    blocks = Blocks(analyse(model, context.observation(model)))
    depth = Depth(drop=1)
    sets = [depth.candidates(blocks, context, "block")]
    try:
        layers = depth.candidates(blocks, context, "layer")
        sets += [layers] if layers != sets[0] else []
    except PruneoptError:  # then sub-layers are all there is
        pass
    every = list({unit.name: unit for units in sets for unit in units}.values())
    study = Study(blocks, every, context, trial_batches(context, len(every)))
    found: dict[
        frozenset[int], list[Block]
    ] = {}  # by what goes: a layer is the same as all of its sub-layers
    for units in sets:
        context.progress(f"depth: {len(units)} blocks")
        for dropped in _path(study, units, scale.budgets):
            found.setdefault(frozenset(blocks.removed(dropped)), dropped)
    return [_without(dropped, study, scale) for dropped in found.values()]


def _without(dropped: Sequence[Block], study: Study, scale: Scale) -> Option:
    """A set of blocks as an option."""
    name = "+".join(sorted(block.name for block in dropped))
    left = scale.shares(bypass(study.blocks, dropped))
    return Option(name, (Depth(blocks=name),), study.damage(dropped), left)


def _path(study: Study, units: Sequence[Block], budgets: Mapping[str, float]) -> Iterator[list[Block]]:
    """The sets on the greedy way to the budgets, and the last one without what it did not need."""
    costs = Costs(study.blocks, study.context)
    wanted = {n: s for n, s in budgets.items() if n in costs.terms} or {"macs": min(budgets.values())}
    goal = Goal(None, {n: max(s, costs.left(n, units)) for n, s in wanted.items()})
    known = {unit.name: unit for unit in units}
    dropped, curve = greedy(units, study.damage, goal, costs)
    for i in range(len(curve)):
        yield [known[name] for name, _ in curve[: i + 1]]
    if dropped:
        yield dropped


def length_options(scale: Scale, trial: Trial) -> tuple[list[Option], dict[str, str]]:
    """Shares of the tokens: as much of what the budget asks for as each method can give, and less by the best one.

    Returns:
        The options, and why methods are not among them, or not with all that is asked for.

    Raises:
        PruneoptError: no method is possible, and why.
    """
    asked = [share for name, share in scale.rest().items() if name in SHORTENED]
    if not asked:
        raise PruneoptError(f"length: fewer tokens save none of {', '.join(scale.budgets)}")
    goals = [1 - step * (1 - min(asked)) for step in STEPS]
    most: dict[str, tuple[Option, int]] = {}
    refused: dict[str, str] = {}
    for method in UNASKED:
        for i, goal in enumerate(goals):
            try:
                most[method] = _shortened(method, goal, scale, trial), i
                break
            except PruneoptError as error:
                refused[method] = str(error)
                if isinstance(error, UsageError) or "refused" in error.details:
                    break  # less is no more possible
    if not most:
        raise PruneoptError(next(iter(refused.values())))
    best = min(most, key=lambda method: (most[method][1], most[method][0].damage))
    less = [_shortened(best, goal, scale, trial) for goal in goals[most[best][1] + 1 :]]
    return [*(option for option, _ in most.values()), *less], refused


def _shortened(method: str, share: float, scale: Scale, trial: Trial) -> Option:
    scale.context.progress(f"length: {method}, {share:.2f} of the multiply-accumulates")
    each = Length(macs=share * scale.own["macs"], method=method)
    short = each.run(scale.model, scale.context).model
    return Option(f"{method} {share:.2f}", (each,), trial.damage(short), scale.shares(short))


@dataclass(frozen=True)
class WidthCurve:
    """The damage that width predicts at each share of the model's own multiply-accumulates; shape [points] each, from
    1 down.
    """

    shares: tuple[float, ...]
    damage: tuple[float, ...]

    def at(self, rest: Mapping[str, float]) -> float:
        """At the tightest of these budgets; infinite below the last point."""
        share = min(rest.values())
        if share >= 1:
            return 0.0
        if share < self.shares[-1]:
            return inf
        return float(np.interp(share, self.shares[::-1], self.damage[::-1]))


def width_curve(model: Model, context: Context) -> WidthCurve:
    """The trade-off of width alone, on the whole model.

    Raises:
        PruneoptError: no width can go.
    """
    points = Width(macs=1.0, plan="measured").trade_off(model, context)
    if len(points) < 2:
        raise PruneoptError("width: no group of channels can be pruned; see 'pruneopt inspect'")
    whole = points[0]["macs"]
    return WidthCurve(tuple(p["macs"] / whole for p in points), tuple(p["damage"] for p in points))
