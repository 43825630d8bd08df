"""Removes width by learned gates: a search over calibration data says what each entry is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pruneopt.analysis.axes import Axis
from pruneopt.analysis.groups import Group, find_groups
from pruneopt.analysis.infer import Analysis, analyse
from pruneopt.analysis.masks import Mask
from pruneopt.analysis.observe import derived_tensors
from pruneopt.errors import PruneoptError, UsageError
from pruneopt.model import Model
from pruneopt.passes.base import Outcome
from pruneopt.passes.context import Context
from pruneopt.passes.learning.labels import by_class
from pruneopt.passes.learning.masks import find_method
from pruneopt.passes.learning.masks.folding import fold, foldable, put
from pruneopt.passes.learning.masks.gates import gateable
from pruneopt.passes.learning.masks.method import Setting
from pruneopt.passes.learning.masks.path import Found, load_path, save_path, usual_place
from pruneopt.passes.learning.masks.search import search
from pruneopt.passes.learning.net import require_torch
from pruneopt.passes.options import Budgeted, check_names, check_share
from pruneopt.passes.planning.costs import limits, met, whole_costs
from pruneopt.passes.planning.kinds import KINDS, kinds_of
from pruneopt.passes.planning.ranked import ranked
from pruneopt.passes.planning.tally import Limit
from pruneopt.passes.planning.uniform import within
from pruneopt.passes.proof import prove
from pruneopt.passes.rewriting.masked import Masked
from pruneopt.passes.rewriting.shrink import shrink, shrunk_sizes
from pruneopt.passes.statistics.stream import split_batches
from pruneopt.passes.width import best


@dataclass(frozen=True)
class Learn(Budgeted):
    """Learn gates on groups, then remove the entries that came out worst.

    Attributes:
        method: how gates are learned (`passes.learning.masks`): `spp`, `l1`, `hard-concrete`, `lora` or `x-pruner`.
        macs: share of the multiply-accumulates to keep at most.
        params: share of the parameters to keep at most.
        bytes: share of the weights' bytes to keep at most.
        memory: share of the peak of live activation bytes to keep at most.
        steps: of the search.
        lr: learning rate of the gates, by default the method's own.
        batch: rows of calibration data in a step.
        loss: `module:function`, called with (outputs by name, batch), `labels` or `argmax`; by default the distance to
            the dense outputs.
        path: a .npz file that the search is saved to, or read from where it is there already; by default one in the
            cache folder, for these settings, weights and data.
        axes: kinds of widths that get gates (`passes.planning.kinds`), joined by `+`; the method's own by default.
        align: weight widths stay multiples of this, as far as groups are large enough.
        floor: share of each group that is kept in any case.
        only: glob pattern of group or tensor names.
    """

    method: str = "spp"
    macs: float | None = None
    params: float | None = None
    bytes: float | None = None
    memory: float | None = None
    steps: int = 300
    lr: float | None = None
    batch: int = 32
    loss: str | None = None
    path: str | None = None
    axes: str | None = None
    align: int = 8
    floor: float = 0.1
    only: str = "*"

    def __post_init__(self) -> None:
        find_method(self.method)
        for name in (*self.known_budgets(), "floor"):
            check_share("learn", name, getattr(self, name))
        for name in ("steps", "lr", "batch", "align"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise UsageError(f"learn: {name}={getattr(self, name):g} is not positive")
        check_names("learn", "axis", self._axes(), KINDS)
        if not self.budgets:
            raise UsageError(
                f"learn: say how much to keep, with a budget ({', '.join(self.known_budgets())})"
            )
        if self.path and not find_method(self.method).reads_any_ratio:
            raise UsageError(f"learn: {self.method} learns for one budget; there is no path to save")

    def run(self, model: Model, context: Context) -> Outcome:
        """Search, or read a search; choose; rewrite."""
        require_torch("learn")
        if met(self.budgets, model, context):
            return Outcome(model, {"note": "learn: the model was within the budget already"})
        analysis = analyse(model, context.observation(model), context.keep)
        kinds = kinds_of(find_groups(analysis), analysis)
        groups = [g for g in kinds if self._wants(g, kinds[g], analysis)]
        if not groups:
            raise PruneoptError(
                f"learn: no group of the kinds {'+'.join(self._axes())} can have gates; see 'pruneopt inspect'"
            )
        fixed = limits(analysis, self.budgets, whole_costs(model, context))
        targets = within(groups, fixed, self.align, self.floor)
        found, said = self._found(analysis, groups, kinds, targets, fixed, context)
        start = find_method(self.method)
        if start.reads_any_ratio or start.across:
            ranks = dict.fromkeys(groups, "all") if start.across else kinds
            targets = ranked(groups, ranks, found.scores, fixed, self.align, self.floor)
        masks = {
            g.atom: best(found.scores[g.atom], targets[g.atom])
            for g in groups
            if targets.get(g.atom, g.size) < g.size
        }
        if found.entered:
            said |= {"path": _told(groups, found.entered)}
        said |= {"groups": _entries(groups, kinds, masks)}
        return self._rewritten(analysis, masks, found, said, context)

    def _axes(self) -> list[str]:
        return (self.axes or find_method(self.method).axes).split("+")

    def _wants(self, group: Group, kind: str, analysis: Analysis) -> bool:
        names = (group.name, *(t.use.constant.name for t in group.touches))
        wanted = kind in self._axes() and any(fnmatchcase(name, self.only) for name in names)
        folds = find_method(self.method).folds
        return wanted and gateable(group, analysis) and (not folds or foldable(group, analysis))

    def _found(
        self,
        analysis: Analysis,
        groups: Sequence[Group],
        kinds: Mapping[Group, str],
        targets: Mapping[Axis, int],
        fixed: Sequence[Limit],
        context: Context,
    ) -> tuple[Found, dict[str, Any]]:
        """What a search has found, before or now, and what there is to say of it."""
        place = self._place(groups, context)
        known = load_path(place, self.method, groups) if place else None
        if known is not None:
            return known, {"searched": False, "search": str(place)}
        if not context.calibration:
            raise UsageError("learn: gates are learned on calibration data; give some with --calib")
        start = find_method(self.method)
        batches = (
            by_class(analysis.model, context.calibration, self.batch)
            if start.by_class
            else [(0, feeds) for feeds in split_batches(analysis.model, context.calibration, self.batch)]
        )
        setting = Setting(
            self.steps,
            self.lr,
            self.loss is None,
            {g.atom: kinds[g] for g in groups},
            targets,
            fixed,
            1 + max(label for label, _ in batches),
            context.seed,
        )
        method, losses = search(analysis, groups, start, setting, batches, self.loss, context.progress)
        found = Found(method.scores(), getattr(method, "entered", ()), method.adapted())
        tail = losses[-max(1, len(losses) // 10) :]
        said = {"searched": True, "steps": self.steps, "loss": [losses[0], sum(tail) / len(tail)]}
        return found, said | self._saved(place, groups, found)

    def _place(self, groups: Sequence[Group], context: Context) -> Path | None:
        """The file of the search; None where there is none to be kept."""
        if self.path:
            return Path(self.path)
        again = find_method(self.method).reads_any_ratio and ":" not in (
            self.loss or ""
        )  # the user's code may change
        if not again or not context.calibration:
            return None
        about = (self.method, self.steps, self.lr, self.batch, self.loss, context.seed)
        return usual_place(about, groups, context.calibration)

    def _saved(self, place: Path | None, groups: Sequence[Group], found: Found) -> dict[str, Any]:
        """Where the search has been saved; a cache that cannot be written to is none."""
        if place is None:
            return {}
        try:
            save_path(place, self.method, groups, found)
        except PruneoptError:
            if self.path:
                raise
            return {}
        return {"search": str(place)}

    def _rewritten(
        self,
        analysis: Analysis,
        masks: dict[Axis, Mask],
        found: Found,
        said: dict[str, Any],
        context: Context,
    ) -> Outcome:
        """The smaller model. What was learned becomes part of it after the proof: it changes the numbers."""
        small, claim = shrink(analysis, masks), Masked(analysis, masks)
        if derived_tensors(small.graph):  # their values would have to be measured
            context.looks(small, shrunk_sizes(analysis, masks))
        else:
            context.seen(small, shrunk_sizes(analysis, masks))
        if not find_method(self.method).folds and not found.adapted:
            return Outcome(small, said, claim)
        context.progress("verify")
        proof = prove(small, claim, context)
        folded = put(small, analysis, masks, found.adapted)
        if find_method(self.method).folds:
            folded = fold(folded, analysis, masks, dict(found.scores))
        context.looks(folded, shrunk_sizes(analysis, masks))
        return Outcome(folded, said | {"equivalence": vars(proof), "folded": True})


def _told(groups: Sequence[Group], entered: Sequence[Sequence[int]]) -> dict[str, Any]:
    """The path: how many entries were in at each record, of all and of each group."""
    columns = zip(groups, zip(*entered, strict=True), strict=True)
    return {
        "entries": sum(g.size for g in groups),
        "in": [sum(each) for each in entered],
        "groups": [{"name": g.name, "size": g.size, "in": list(column)} for g, column in columns],
    }


def _entries(
    groups: Sequence[Group], kinds: Mapping[Group, str], masks: dict[Axis, Mask]
) -> list[dict[str, Any]]:
    return [
        {
            "name": g.name,
            "kind": kinds[g],
            "size": g.size,
            "kept": int(masks[g.atom].sum()) if g.atom in masks else g.size,
            "coupled": g.coupled,
            "tensors": [str(t) for t in g.touches],
        }
        for g in groups
    ]
