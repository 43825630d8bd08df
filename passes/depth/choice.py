"""Chooses blocks by a criterion, among layers or sub-layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pruneopt.analysis.blocks import Block
from pruneopt.errors import PruneoptError
from pruneopt.passes.depth.criteria import find_criterion
from pruneopt.passes.depth.select import Costs, Goal, by_score, greedy
from pruneopt.passes.depth.study import Study

Choice = tuple[list[Block], dict[str, Any]]  # the blocks to drop, and what the report says of the choice


@dataclass(frozen=True)
class Wanted:
    """What was asked for: see the fields of `Depth`; `mapped` blocks get a linear map each run."""

    criterion: str
    ratio: float | None
    drop: int | None
    budgets: dict[str, float]
    mapped: bool = False


def choose(study: Study, sets: Sequence[list[Block]], wanted: Wanted) -> Choice:
    """The choice, among those of each set of units, that does the least damage.

    Raises:
        PruneoptError: not as much can go as is wanted, whatever the units.
    """
    found: list[Choice] = []
    errors: list[PruneoptError] = []
    for units in sets:
        try:
            found.append(_choose(study, units, wanted))
        except PruneoptError as error:
            errors.append(error)
    if not found:
        raise errors[0]
    return min(found, key=lambda each: study.damage(each[0])) if len(found) > 1 else found[0]


def _choose(study: Study, units: Sequence[Block], wanted: Wanted) -> Choice:
    name, costs = wanted.criterion, Costs(study.blocks, study.context, wanted.mapped)
    count = wanted.drop if wanted.ratio is None else round((1 - wanted.ratio) * len(units))
    goal = Goal(count, wanted.budgets)
    study.context.progress(f"score {len(units)} blocks ({name})")
    if name == "greedy":
        dropped, steps = greedy(units, study.damage, goal, costs)
        known = {unit.name: unit for unit in units}
        path = [(known[block], damage) for block, damage in steps]
        return dropped, {"criterion": name, "curve": _curve(path, costs)}
    scores = {unit.name: study.once(name, find_criterion(name))[unit.name] for unit in units}
    dropped = by_score(units, scores, goal, costs)
    order = sorted(dropped, key=lambda unit: scores[unit.name])
    path = [(unit, study.damage(order[: i + 1])) for i, unit in enumerate(order)]
    return dropped, {"criterion": name, "scores": scores, "curve": _curve(path, costs)}


def _curve(path: Sequence[tuple[Block, float]], costs: Costs) -> list[dict[str, Any]]:
    """What is left of the multiply-accumulates, and the damage, as one block goes after the other."""
    gone = [block for block, _ in path]
    return [
        {"block": block.name, "macs": costs.left("macs", gone[: i + 1]), "damage": damage}
        for i, (block, damage) in enumerate(path)
    ]
