"""Removes length: tokens behind attentions, or places of the inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pruneopt.analysis.cuts import Refusal, Site
from pruneopt.analysis.infer import analyse
from pruneopt.analysis.tokens import Tokens
from pruneopt.errors import PruneoptError, UsageError
from pruneopt.model import Model
from pruneopt.passes.base import Outcome
from pruneopt.passes.claims import Unchanged
from pruneopt.passes.context import Context
from pruneopt.passes.length.amount import Amount
from pruneopt.passes.length.cache.budget import Budget, within
from pruneopt.passes.length.extent import ROLES, fewer_places, within_budget
from pruneopt.passes.length.extent.padding import without_padding
from pruneopt.passes.length.faults import faults, useless
from pruneopt.passes.length.finding import find_sites, long_enough, sentence
from pruneopt.passes.length.gaps import Marked
from pruneopt.passes.length.marking import mark
from pruneopt.passes.length.opened import opened
from pruneopt.passes.length.rewriting import entry_of, rewrite
from pruneopt.passes.length.schedule import stages_of
from pruneopt.passes.length.shadow import Shadow
from pruneopt.passes.options import check_names, check_share
from pruneopt.passes.planning.costs import shares_of
from pruneopt.passes.proof import prove

MERGING = ("tome", "topk", "static")
METHODS = (*MERGING, *ROLES)
# What plans may choose unasked: the end of a sequence may hold what no calibration data has there.
UNASKED = tuple(method for method in METHODS if method != "sequence")
AMOUNTS = ("keep", "left", "r", "macs")


@dataclass(frozen=True)
class Length:
    """Remove tokens behind attentions, or make the inputs smaller.

    Attributes:
        keep: share of the tokens that each stage leaves (of the inputs' places, with these methods); or
        left: share that is left at the end; or
        r: number of tokens that each stage removes, where their number is fixed; or
        macs: share of the multiply-accumulates to keep at most.
        method: `tome` (merge similar ones), `topk` (keep the most attended, fuse the rest) or `static` (the
            same places for every input); `resolution`, `frames` or `sequence` make the inputs smaller.
        stages: attention layers that are stages, from 0, as `3/6/9`; by default all for `tome`, else three.
        skip: tokens that `topk` dropped come back behind the last attention, as they were when they were dropped.
        falling: merge more tokens in early stages, fewer and fewer later; with `left` or `macs`.
        resolution: share of the rows and columns of images to keep.
        frames: share of the frames of videos, or of the slices of volumes, to keep.
        sequence: share of a fixed number of tokens or samples to keep, those at the front.
        trim: columns that are padding in all rows of a batch go, whatever their number; by itself.
        context: tokens that the key-value caches of a decoder hand on at most, by itself; where keys are turned by
            their places, these are counted inside the cache.
        sinks: of these, how many are the first ones; the others are the last ones.
        inputs: the inputs themselves become smaller (the signature changes), and outputs that have places.
    """

    keep: float | None = None
    left: float | None = None
    r: int | None = None
    macs: float | None = None
    method: str = "tome"
    stages: str = ""
    skip: bool = False
    falling: bool = False
    resolution: float | None = None
    frames: float | None = None
    sequence: float | None = None
    trim: bool = False
    context: int | None = None
    sinks: int = 4
    inputs: bool = False

    def __post_init__(self) -> None:
        given = [n for n in (*AMOUNTS, *ROLES) if getattr(self, n) is not None]
        alone = self.trim + (self.context is not None)
        if len(given) + alone != 1 and (alone or not given or set(given) - set(ROLES)):
            raise UsageError(
                f"length: say how much with one of {', '.join(AMOUNTS)}, trim, context, or some of {', '.join(ROLES)}"
            )
        if self.context is not None and not 0 <= self.sinks < self.context:
            raise UsageError(
                f"length: of context={self.context} tokens, sinks={self.sinks} cannot be the first ones"
            )
        for name in given:
            value = getattr(self, name)
            if name == "r" and value < 1:
                raise UsageError(f"length: r={value} is no number of tokens to remove")
            if name != "r":
                check_share("length", name, value)
        check_names("length", "method", [self.method], METHODS)
        if self.method in ROLES and (not given or given[0] not in ("keep", "macs")):
            raise UsageError(f"length: {self.method} takes keep or macs, nothing else")
        if self.skip and self.method != "topk":
            raise UsageError("length: skip is for tokens that are dropped, with method=topk")
        if self.inputs and not self._places:
            raise UsageError(f"length: only {', '.join(ROLES)} change inputs")

    @property
    def _places(self) -> dict[str, float]:
        """Share of the inputs' places to keep, by role; a budget is nothing in (0, 1] yet."""
        found = {role: getattr(self, role) for role in ROLES if getattr(self, role) is not None}
        return found or ({self.method: self.keep or 0.0} if self.method in ROLES else {})

    def run(self, model: Model, context: Context) -> Outcome:
        """Smaller inputs; or find, schedule, mark, write and fill the gaps behind attentions.

        Raises:
            PruneoptError: neither is possible; the message says why.
        """
        macs = None if self.macs is None else self.macs / (shares_of(model, context)["macs"] or 1.0)
        if macs is not None and macs >= 1:
            return Outcome(model, {"note": "length: the model was within the budget already"})
        if self.trim:
            return without_padding(model, context)
        if self.context is not None:
            return within(model, Budget(self.context, self.sinks), context)
        if self._places:
            return self._smaller(model, macs, context)
        context = long_enough(model, context)
        plain = opened(model, context)
        if plain is not model:
            prove(plain, Unchanged(model, context.feeds), context)
        tokens = Tokens(analyse(plain, context.observation(plain), context.keep))
        sites, refused = find_sites(tokens, context)
        marked, dropped = self._mark(tokens, sites, context.keep)
        refused += dropped
        if not marked.groups:
            raise PruneoptError(sentence(refused), refused=[str(r) for r in refused])
        amount = Amount(self.method, self.keep, self.left, self.r, macs, self.falling)
        short, filled = rewrite(tokens, marked, amount.plans(tokens, marked, context))
        entry = {"sites": [entry_of(f) for f in filled], "refused": [str(r) for r in refused]}
        return Outcome(short, entry, Shadow(short, tokens, filled, tokens.analysis.seen.feeds, context))

    def _smaller(self, model: Model, macs: float | None, context: Context) -> Outcome:
        if macs is not None:
            outcome, inside = within_budget(model, self.method, macs, context)
        else:
            outcome, inside = fewer_places(model, self._places, context)
        if self.inputs:
            context.smaller |= inside
        said: dict[str, Any] = {"signature": sorted(inside)} if self.inputs else {}
        return Outcome(outcome.model, outcome.entry | said, outcome.claim)

    def _mark(
        self, tokens: Tokens, sites: Sequence[Sequence[Site]], keep: tuple[str, ...]
    ) -> tuple[Marked, list[Refusal]]:
        """Mark the stages, without those that turn out to be impossible."""
        homes = [group[-1] if self.skip else None for group in sites]
        chosen = [
            [s for s in stages_of(group, self.method, self.stages) if s is not home]
            for group, home in zip(sites, homes, strict=True)
        ]
        refused: list[Refusal] = []
        while True:
            marked = mark(tokens, chosen, keep, homes)
            bad = faults(marked) or useless(marked)
            if not bad:
                return marked, refused
            refused += bad.values()
            chosen = [[s for s in group if s not in bad] for group in chosen]
