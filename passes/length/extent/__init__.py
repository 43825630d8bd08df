"""Smaller inputs: the resolution of images, the frames of videos, the length of texts as dimensions to prune.

1. `ends.py` finds the dimensions of the inputs that count places.
2. `settle.py` follows them through the graph: the size that every axis has then, or what holds on to its size.
3. `writing.py` sets these sizes; `constants.py` interpolates position embeddings with the `matrices.py`.
4. The signature stays: the input is made smaller in front, outputs with places become as large again behind.
   `bare.py` takes both away for users who want smaller inputs.
5. `claim.py` proves it: the original graph with sizes computed while it runs, at the smaller size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from pruneopt.analysis.cost import CostModel
from pruneopt.analysis.infer import Analysis, analyse
from pruneopt.arrays import Feeds
from pruneopt.errors import PruneoptError
from pruneopt.model import Model
from pruneopt.passes.base import Outcome
from pruneopt.passes.context import Context
from pruneopt.passes.length.extent.claim import Elsewhere
from pruneopt.passes.length.extent.ends import ROLES, End, find_ends
from pruneopt.passes.length.extent.settle import Course, Fixed, Settled, settle
from pruneopt.passes.length.extent.writing import framed, overhead, written

Made = tuple[Outcome, dict[str, str]]
RUNS = 4  # sizes at which a graph is tried
TRIES = 64  # sizes that cannot be, until one gives up
NEAR = 0.2  # how far from the wanted size another one is looked for, as a share of the whole


def fewer_places(model: Model, wanted: Mapping[str, float], context: Context) -> Made:
    """The model at smaller inputs, and the tensors inside that stand for its inputs and outputs.

    Args:
        model: stays as it is.
        wanted: of each role, the share of places to keep.
        context: of the run.

    Raises:
        PruneoptError: the model has no such inputs, or holds on to their size; the message says where.
    """
    analysis = analyse(model, context.observation(model), context.keep, free_ends=True)
    ends = {end: wanted[end.role] for end in find_ends(analysis) if end.role in wanted}
    if missing := set(wanted) - {end.role for end in ends}:
        raise PruneoptError(f"length: no input has a {min(missing)}: {_dimensions(analysis)}")
    if loose := [end for end in ends if not end.axis.static]:
        raise PruneoptError(
            f"length: input '{loose[0].tensor.name}' may have any {loose[0].role} as it is: give it smaller ones"
        )
    return _first(_nearest(analysis, ends), analysis, context)


def within_budget(model: Model, role: str, share: float, context: Context) -> Made:
    """The largest inputs that meet a share of the model's multiply-accumulates. Raises like `fewer_places`."""
    analysis = analyse(model, context.observation(model), context.keep, free_ends=True)
    ends = [end for end in find_ends(analysis) if end.role == role]
    if not ends:
        raise PruneoptError(f"length: no input has a {role}: {_dimensions(analysis)}", refused=[])
    if not all(end.axis.static for end in ends):
        raise PruneoptError(f"length: its inputs may have any {role} as they are", refused=[])
    return _first(_cheaper(analysis, ends, share), analysis, context)


def _first(found: Iterator[tuple[dict[End, int], Settled]], analysis: Analysis, context: Context) -> Made:
    """The first of some sizes at which the graph runs. Raises PruneoptError where it runs at none of a few."""
    error: PruneoptError | None = None
    for sizes, settled in islice(found, RUNS):
        try:
            return _carried_out(analysis, sizes, settled, context)
        except Fixed:
            raise
        except PruneoptError as why:
            error = error or why
    raise PruneoptError(
        f"length: its inputs must stay as large as they are; at a smaller size, {error}", refused=[]
    )


def _cheaper(
    analysis: Analysis, ends: Sequence[End], share: float
) -> Iterator[tuple[dict[End, int], Settled]]:
    """Sizes within a share of the multiply-accumulates, the largest first; PruneoptError where there are none."""
    course, cost, any_ = Course(analysis), CostModel(analysis, -1), False
    why: list[str] = []
    most, budget = max(end.axis.size[0] for end in ends), share * cost.macs({})
    first = (
        int(most * share ** (1 / (2 * len(ends)))) + 1
    )  # attention costs the square of its tokens, nothing more
    for size in range(min(first, most - 1), 0, -1):
        sizes = {end: _scaled(end.axis.size[0], size / most) for end in ends}
        try:
            settled = settle(course, sizes)
        except Fixed as error:
            why.append(str(error))
            if len(why) > TRIES:
                break
            continue
        if settled.even and cost.macs(settled.sizes) + overhead(analysis, sizes) <= budget:
            any_ = True
            yield sizes, settled
    if not any_:
        reason = why[0] if why else "none divides evenly"
        raise PruneoptError(f"length: no smaller {ends[0].role} meets the budget ({reason})", refused=why[:1])


def _carried_out(analysis: Analysis, sizes: Mapping[End, int], settled: Settled, context: Context) -> Made:
    small = written(analysis, settled)
    context.session(small.copy()).run(_smaller(analysis, sizes))
    inside = framed(small, sizes, analysis, settled)
    entry: dict[str, Any] = {
        "inputs": [
            {"name": e.tensor.name, "dim": e.dim, "role": e.role, "size": [e.axis.size[0], n]}
            for e, n in sizes.items()
        ]
    }
    return Outcome(small, entry, Elsewhere(analysis, settled, sizes, analysis.seen.feeds, context)), inside


def _smaller(analysis: Analysis, sizes: Mapping[End, int]) -> Feeds:
    """The observed inputs, as much of them as has room."""
    found = dict(analysis.seen.feeds[0])
    for end, size in sizes.items():
        found[end.tensor.name] = np.take(found[end.tensor.name], range(size), end.dim)
    return found


def _nearest(analysis: Analysis, ends: Mapping[End, float]) -> Iterator[tuple[dict[End, int], Settled]]:
    """Sizes near the wanted shares: those at which every op's places shrink alike, then any; the nearest first."""
    course, most = Course(analysis), max(end.axis.size[0] for end in ends)
    reach = max(1, int(NEAR * most))
    uneven: list[tuple[dict[End, int], Settled]] = []
    first, any_ = None, False
    for off in sorted(range(-reach, reach + 1), key=lambda n: (abs(n), n)):
        sizes = {e: _scaled(e.axis.size[0], share + off / most) for e, share in ends.items()}
        if any(not 0 < n <= e.axis.size[0] for e, n in sizes.items()):
            continue
        try:
            settled = settle(course, sizes)
        except Fixed as error:
            first = first or error
            continue
        any_ = True
        if settled.even:
            yield sizes, settled
        else:
            uneven.append((sizes, settled))
    if not any_:
        raise PruneoptError(f"length: {first}; its inputs must stay as large as they are")
    yield from uneven


def _scaled(size: int, share: float) -> int:
    return round(size * share)


def _dimensions(analysis: Analysis) -> str:
    found = [f"'{e.tensor.name}' has a {e.role}" for e in find_ends(analysis)]
    return ", ".join(dict.fromkeys(found)) or "all their dimensions are channels or batches"


__all__ = ["ROLES", "fewer_places", "within_budget"]
