"""Plans along several axes: one option of each, what it is predicted to do, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

from pruneopt.model import Model
from pruneopt.passes.planning.joint_options import Option, Scale, WidthCurve

WHOLE = Option()
SLACK = 1e-6  # of a budget: rounding


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


class Choices:
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


def worth_of(tried: Sequence[Tried]) -> dict[str, float]:
    """What was measured as a share of what was predicted, by axis; repair and unseen data are in it.

    Of several plans along an axis the one of least predicted damage counts.
    """
    alone = [
        each for each in tried if each.model is not None and len(each.plan.axes) == 1 and each.predicted > 0
    ]
    alone.sort(key=lambda each: -each.predicted)
    return {each.plan.axes[0]: each.damage / each.predicted for each in alone}
