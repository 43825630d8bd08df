"""Proves a rewrite: the masked original and the rewritten model run side by side and must agree.

They are compared at the outputs. Where an output cannot show anything, because it is constant, or where a
weight of zeros hides what goes into it (heads and residual branches are often initialised so), they are also
compared inside: at tensors of the same name, without the entries that the rewrite removed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.errors import PruneoptError
from pruneopt.model import Model
from pruneopt.passes.decisions import Decisions
from pruneopt.passes.distance import FLOOR, distance
from pruneopt.passes.inside import Pair, hidden, is_silent, products
from pruneopt.passes.rounding import trembling

if TYPE_CHECKING:
    from pruneopt.arrays import Feeds
    from pruneopt.passes.claims import Claim
    from pruneopt.passes.context import Context
    from pruneopt.passes.runtime import Session

TOLERANCE = 1e-4  # float32 rounding over a deep net stays well below; a wrong rewrite is orders above
DOUBTFUL = 1e-3  # errors up to here may be rounding, in a net that magnifies it
NOISE = 10  # times what moving all last bits does: sums in another order round oftener than that


@dataclass(frozen=True)
class Equivalence:
    """How far a rewritten model is from its masked original.

    Attributes:
        max_rel_error: largest difference of an entry, as a share of its tensor's largest magnitude.
        atoms_checked: number of axes that were masked.
        inside_checked: number of inner tensors that were compared.
        rounding: the error that rounding alone may make, where it had to be looked at.
    """

    max_rel_error: float
    atoms_checked: int
    inside_checked: int = 0
    rounding: float = 0.0


def prove(model: Model, claim: Claim, context: Context, tolerance: float = TOLERANCE) -> Equivalence:
    """Run the masked originals and the rewritten model side by side.

    Raises:
        PruneoptError: they differ by more than `tolerance`. This is a bug of a rule, never of the user.
    """
    points = comparison_points(model.graph)
    worst, inside, rounding = 0.0, 0, 0.0
    references = list(_run(claim, points, context))  # before the other model: large ones take turns in memory
    session = context.session(model, points, optimize=False)
    for run, (reference, feeds, expected) in enumerate(references):
        found = session.run(feeds)
        context.remember(model, feeds, found)
        pair = Pair(model, reference, feeds, claim, context, run)
        error = max(*(distance(expected[name], found[name]) for name in expected), 0.0)
        if not error <= tolerance:
            error = _decided_alike(pair, points, error)
        if tolerance < error <= DOUBTFUL:
            rounding = max(rounding, _rounding(reference, feeds, points, context))
        worst = max(worst, error)
        if run == 0 and claim.count():
            silent = [name for name, value in expected.items() if is_silent(value)]
            names = hidden(model.graph)
            whole = context.known(context.original, feeds, points) if context.original else None
            if _is_deaf(expected, whole or {}, tolerance):
                names = list(dict.fromkeys([*names, *products(model.graph)]))
            inside, error = pair.behind(silent, names)
            if not error <= tolerance:
                error = _decided_alike(pair, [*points, *names], error)
            worst = max(worst, error)
    if not worst <= max(tolerance, rounding):
        reference, feeds, _ = references[0]
        # What decides has been compared as both models decide alike: rounding is no excuse there.
        decides = bool(Decisions(model, reference).inputs)
        trembles = 0.0 if decides else _rounding(reference, feeds, points, context)
        raise _refusal(worst, trembles, tolerance)
    return Equivalence(worst, claim.count(), inside, rounding)


def _refusal(worst: float, rounding: float, tolerance: float) -> PruneoptError:
    """What to tell a user: a net that turns rounding into errors of any size (untrained ones do) proves nothing."""
    if rounding >= worst:
        return PruneoptError(
            f"this model's outputs move by {rounding / NOISE:.1e} when the last bits of its weights do, so that no "
            "rewrite of it can be proved; nothing was written (a trained model should not do that)"
        )
    return PruneoptError(
        f"the rewritten model differs from the masked original by {worst:.1e} (at most {tolerance:.0e} "
        "is allowed), so nothing was written; please report this model"
    )


def _decided_alike(pair: Pair, points: Sequence[str], error: float) -> float:
    """The largest error once both models decide alike, at `points` and at all that decides; else `error`."""
    decisions = Decisions(*pair.models)
    names = list(dict.fromkeys([*points, *decisions.inputs]))
    expected = pair.run(1, [*names, *decisions.makers])
    told = decisions.told(pair.claim, expected, pair.number)
    if not told:
        return error
    names = [name for name in names if name not in told]
    session = pair.context.session(decisions.pinned(told), names, optimize=False)
    found = session.run({**pair.feeds, **told})
    kept = {name: pair.left(name, expected[name]) for name in names}
    kept |= {name: expected[name] for name in points if kept.get(name) is None and name not in told}
    return max((distance(kept[n], found[n], FLOOR) for n in names if kept[n] is not None), default=0.0)


def _rounding(reference: Model, feeds: Feeds, points: Sequence[str], context: Context) -> float:
    """The error at `points` that two right ways to compute them may have, in a net that magnifies rounding."""
    before, after = trembling(reference, feeds, points, context)
    moved = max((distance(before[name], after[name]) for name in points), default=0.0)
    return NOISE * moved if np.isfinite(moved) else 0.0  # what breaks says nothing of rounding


def _run(
    claim: Claim, points: Sequence[str], context: Context
) -> Iterator[tuple[Model, Feeds, dict[str, Any]]]:
    loaded: tuple[Model, Session] | None = None
    for reference, feeds in claim.references():
        known = context.known(reference, feeds, points)
        if known is not None:
            yield reference, feeds, known
            continue
        if loaded is None or loaded[0] is not reference:
            loaded = reference, context.session(reference, points, optimize=False)
        yield reference, feeds, loaded[1].run(feeds)


SQUASHING = {"Sigmoid", "HardSigmoid", "Softmax", "LogSoftmax", "Tanh", "ArgMax", "ArgMin", "Round", "Cast"}
SQUASHING |= {"ZipMap", "SplitToSequence"}  # what comes out is no tensor


def comparison_points(graph: gs.Graph) -> list[str]:
    """Names of the tensors to compare: the outputs, or what goes into a squashing op that makes one.

    A saturated sigmoid or an argmax would hide a wrong rewrite, and turn rounding into a flipped bit.
    """
    points = []
    for tensor in graph.outputs:
        while tensor.inputs and tensor.inputs[0].op in SQUASHING and tensor.inputs[0].inputs[0].inputs:
            tensor = tensor.inputs[0].inputs[0]
        points.append(tensor.name)
    return points


def _is_deaf(masked: dict[str, Any], whole: dict[str, Any], tolerance: float) -> bool:
    """Whether masking moves an output so little that a wrong rewrite could hide within the tolerance."""
    return any(distance(whole[name], masked[name]) < 100 * tolerance for name in masked if name in whole)
