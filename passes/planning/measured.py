"""Plans widths from calibration data: error curves, exchange rates, allocation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pruneopt.analysis.groups import Group
from pruneopt.analysis.infer import Analysis
from pruneopt.arrays import Array, Feeds
from pruneopt.passes.context import Context
from pruneopt.passes.criteria.magnitude import magnitude_l2
from pruneopt.passes.planning.allocate import Choice, Kept, allocate, choice, trace
from pruneopt.passes.planning.curves import Curve, curve_of
from pruneopt.passes.planning.probe import Worth, rates
from pruneopt.passes.planning.tally import Limit
from pruneopt.passes.statistics.consumers import Consumer, consumers_of, find_consumers
from pruneopt.passes.statistics.evidence import Evidence, gather
from pruneopt.passes.statistics.stream import hold_out, split_batches

MOST = 1 << 30  # bytes of moments held at a time


def survey(
    analysis: Analysis, groups: Sequence[Group], context: Context, batches: Sequence[Feeds]
) -> Evidence:
    """The curve of every group, and on other batches what its errors are worth: what never occurs is not free.

    Groups are looked at in lots whose moments fit into memory; they are kept where one lot holds them all.
    """
    fit, held = hold_out(batches)
    every, few = (len(split_batches(analysis.model, each, 1)) for each in (batches, held))
    lots = list(_lots(groups, [c.narrow() for c in find_consumers(analysis, made=True)]))
    whole = Evidence(analysis, context.seed)
    for i, lot in enumerate(lots):
        number = f" {i + 1} of {len(lots)}" if len(lots) > 1 else ""
        context.progress(f"statistics{number}")
        evidence = gather(analysis, [g.atom for g in lot], context, fit)
        curves = {g: c for g in lot if (c := curve_of(g, evidence)) is not None}
        context.progress(f"probe {len(curves)} groups{number}")
        part = every / few * len(curves) / max(len(groups), 1)
        evidence.rates |= rates(curves, evidence, context, held, part)
        if len(lots) == 1:
            return evidence
        whole.curves |= evidence.curves
        whole.rates |= evidence.rates
    return whole


def _lots(groups: Sequence[Group], consumers: list[Consumer]) -> Iterator[list[Group]]:
    """Groups in order, in lots of moments of at most `MOST` bytes, if a group alone has no more."""
    lot: list[Group] = []
    held: dict[tuple[str, ...], int] = {}
    for group in groups:
        own = {_rows(c): 8 * c.groups * c.features**2 for c in consumers_of(group.atom, consumers)}
        if lot and sum((held | own).values()) > MOST:
            yield lot
            lot, held = [], {}
        lot.append(group)
        held |= own
    if lot:
        yield lot


def _rows(consumer: Consumer) -> tuple[str, ...]:
    """What consumers of the same rows have in common."""
    return (consumer.name,) if consumer.node.op == "Conv" else ("rows", consumer.data)


def plan(
    groups: Sequence[Group], limits: Sequence[Limit], evidence: Evidence, align: int, floor: float
) -> Kept:
    """Sizes of all groups within the limits, of least damage at the model's outputs as far as it was measured."""
    return allocate(_choices(groups, evidence.curves, evidence.rates, align, floor), limits)


def told(
    groups: Sequence[Group], limits: Sequence[Limit], evidence: Evidence, align: int, floor: float
) -> dict[str, Any]:
    """What a reader of the report may see: `curves`, the damage of each group at each size, and the `trade_off`."""
    choices = _choices(groups, evidence.curves, evidence.rates, align, floor)
    curves = [
        {"name": c.group.name, "sizes": c.sizes.tolist(), "damage": c.damage.tolist()}
        for c in choices
        if evidence.curves.get(c.group) is not None
    ]
    return {"curves": curves, "trade_off": trace(choices, limits)}


def foreseen(groups: Sequence[Group], kept: Kept, evidence: Evidence) -> float:
    """The damage that these sizes do, by the curves: each group on its own, its readers refitted, nothing else."""
    known = _damage(groups, evidence.curves, evidence.rates)
    return float(sum(known[g][g.size - kept.get(g.atom, g.size)] for g in groups))


def _choices(
    groups: Sequence[Group],
    curves: Mapping[Group, Curve | None],
    worth: Mapping[Group, Worth],
    align: int,
    floor: float,
) -> list[Choice]:
    known = _damage(groups, curves, worth)
    return [choice(g, known[g], align, floor) for g in groups]


def _damage(
    groups: Sequence[Group], curves: Mapping[Group, Curve | None], worth: Mapping[Group, Worth]
) -> dict[Group, Array]:
    """Of removing k entries of each group, for every k; shape [size + 1]."""
    known = {g: worth[g].at(c.error) for g, c in curves.items() if c is not None}
    typical = float(np.median([d[-1] for d in known.values()])) if known else 1.0
    return {g: known[g] if g in known else _guess(g) * typical for g in groups}


def _guess(group: Group) -> Array:
    """For a group that no data was seen of: the share of its squared magnitude that goes, smallest first."""
    squares = np.sort(np.square(magnitude_l2(group)))
    whole = float(squares.sum()) or 1.0
    return np.concatenate([[0.0], np.cumsum(squares) / whole])
