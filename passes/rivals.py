"""Of two ways to remove the same amount, the one that does less harm when carried out.

A plan is made from what groups do one at a time; what it does as a whole shows at the outputs only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import inf

from pruneopt.errors import PruneoptError
from pruneopt.passes.base import Outcome
from pruneopt.passes.context import Context
from pruneopt.passes.repair import Repair
from pruneopt.passes.rewriting.masked import Masked

ENOUGH = 1e-3  # damage that needs no second look
HOPELESS = (
    4.0  # times the damage of the first one before repair: what does more is not repaired for a comparison
)
Harm = Callable[[Outcome, Context, float], "Mapping[str, float] | None"]


def repaired(outcome: Outcome, context: Context, most: float) -> Mapping[str, float] | None:
    """Damage at the outputs of held-out data by the way of repair, of which there is `none` at least, and `stream`
    unless that is above `most`; None where no repair is possible.
    """
    claim = outcome.claim
    if not isinstance(claim, Masked) or not claim.masks or claim.moves():
        return None
    mended = Repair(ways="stream").mend(outcome.model, claim, context, again=True, most=most)
    found: Mapping[str, float] = mended.entry["distances"]
    return found


def better(
    first: Outcome,
    other: Callable[[], Outcome],
    names: tuple[str, str],
    context: Context,
    harm_of: Harm = repaired,
) -> Outcome:
    """The outcome that moves the outputs of held-out calibration data less, as `harm_of` has it.

    The other one is made only where the first does more than next to no harm and more than its plan foresaw, and
    passed over where it cannot reach the budget. What is returned is not repaired yet; its entry says under `rivals`
    how far each moved the outputs (`passes.statistics.damage`), and under `chosen` which it is.
    """
    known = harm_of(first, context, inf)
    if known is None or min(known.values()) <= max(ENOUGH, first.entry.get("foreseen", 0.0)):
        return first
    context.progress(f"compare with {names[1]}")
    try:
        second = other()
    except PruneoptError as error:
        if "least" not in error.details:  # only a budget that cannot be met is an answer
            raise
        return first
    other_known = harm_of(second, context, HOPELESS * known["none"])
    if other_known is None:
        return first
    harm, second_harm = (float(min(each.values())) for each in (known, other_known))
    name, chosen = (names[0], first) if harm <= second_harm else (names[1], second)
    said = {"rivals": {names[0]: harm, names[1]: second_harm}, "chosen": name}
    return replace(chosen, entry=chosen.entry | said)
