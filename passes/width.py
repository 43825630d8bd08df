"""Removes width: channels, groups, heads, head widths, neurons, embedding dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from pruneopt.analysis.axes import Axis
from pruneopt.analysis.cost import CostModel
from pruneopt.analysis.explain import inspect_analysis
from pruneopt.analysis.groups import Group, find_groups
from pruneopt.analysis.infer import Analysis, analyse
from pruneopt.analysis.masks import Mask
from pruneopt.analysis.observe import derived_tensors
from pruneopt.errors import PruneoptError, UsageError
from pruneopt.model import Model
from pruneopt.passes.base import Context, Outcome
from pruneopt.passes.criteria import find_criterion
from pruneopt.passes.planning.measured import plan
from pruneopt.passes.planning.tally import Limit
from pruneopt.passes.planning.uniform import leaders, share, within
from pruneopt.passes.rewriting.masked import Masked
from pruneopt.passes.rewriting.shrink import shrink, shrunk_sizes
from pruneopt.passes.statistics.evidence import Evidence, gather
from pruneopt.passes.statistics.stream import hold_out, split_batches


@dataclass(frozen=True)
class Width:
    """Remove entries of groups: structure, score, amount, rewrite.

    Attributes:
        ratio: share kept of each group; or one or more of the budgets below.
        macs: share of the multiply-accumulates to keep at most.
        params: share of the parameters to keep at most.
        bytes: share of the weights' bytes to keep at most.
        criterion: name of the score (`passes.criteria`); without one, `obs` where there is calibration data, else `l2`.
        plan: `measured` (least damage by calibration data) or `uniform`; by default what the criterion calls for.
        coupled: also groups under a norm or another statistic, where removal is approximate.
        align: weight widths stay multiples of this, as far as groups are large enough.
        floor: share of each group that is kept in any case.
        only: glob pattern of group or tensor names to prune.
    """

    ratio: float | None = None
    macs: float | None = None
    params: float | None = None
    bytes: float | None = None
    criterion: str | None = None
    plan: str | None = None
    coupled: bool = False
    align: int = 8
    floor: float = 0.1
    only: str = "*"

    def __post_init__(self) -> None:
        for name in ("ratio", "macs", "params", "bytes", "floor"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise UsageError(f"width: {name}={value:g} is not in (0, 1]; it is the share to keep")
        if self.plan not in (None, "measured", "uniform"):
            raise UsageError(f"width: there is no plan '{self.plan}'; choose measured or uniform")
        if self.align < 1:
            raise UsageError(f"width: align={self.align} is not a positive number")
        if self.ratio is None and not self.budgets:
            raise UsageError("width: say how much to keep, with ratio or a budget (macs, params, bytes)")

    @property
    def budgets(self) -> dict[str, float]:
        """The budgets that are set."""
        return {n: getattr(self, n) for n in ("macs", "params", "bytes") if getattr(self, n) is not None}

    def run(self, model: Model, context: Context) -> Outcome:
        """Analyse, plan, select and rewrite."""
        analysis, groups, evidence = context.once(
            (id(model), self.coupled, self.only), lambda: self._study(model, context)
        )
        kept = self._kept(analysis, groups, evidence, context)
        masks = self._select(groups, kept, evidence)
        small = shrink(analysis, masks)
        sizes = shrunk_sizes(analysis, masks)
        if derived_tensors(small.graph):  # their values would have to be measured
            context.looks(small, sizes)
        else:
            context.seen(small, sizes)
        return Outcome(small, {"groups": _entries(groups, masks)}, Masked(analysis, masks))

    def _study(self, model: Model, context: Context) -> tuple[Analysis, list[Group], Evidence]:
        """What there is to prune, and what the calibration data says of it."""
        analysis = analyse(model, context.observation(model), context.keep)
        groups = [g for g in find_groups(analysis) if self._wants(g)]
        if not context.calibration:
            return analysis, groups, Evidence(analysis, context.seed)
        context.progress("statistics")
        fit, _ = hold_out(split_batches(context.calibration))
        return analysis, groups, gather(analysis, [g.atom for g in groups], context, fit)

    def _wants(self, group: Group) -> bool:
        if group.coupled and not self.coupled:
            return False
        names = (group.name, *(t.use.constant.name for t in group.touches))
        return any(fnmatchcase(name, self.only) for name in names)

    def _kept(
        self, analysis: Analysis, groups: Sequence[Group], evidence: Evidence, context: Context
    ) -> dict[Axis, int]:
        if self.ratio is not None:
            return share(leaders(groups), self.ratio, self.align, self.floor)
        measured = self.plan == "measured" or (self.plan is None and self._score(evidence) == "obs")
        budgets = limits(analysis, self.budgets)
        try:
            if measured:
                fit, _ = hold_out(split_batches(context.calibration))
                return plan(groups, budgets, evidence, context, fit, self.align, self.floor)
            return within(groups, budgets, self.align, self.floor)
        except PruneoptError as error:
            raise PruneoptError(
                str(error), **error.details, frozen=inspect_analysis(analysis).frozen()
            ) from None

    def _select(self, groups: Sequence[Group], kept: dict[Axis, int], evidence: Evidence) -> dict[Axis, Mask]:
        score = find_criterion(self._score(evidence))
        return {
            g.atom: best(score(g, evidence), kept[g.atom])
            for g in groups
            if kept.get(g.atom, g.size) < g.size
        }

    def _score(self, evidence: Evidence) -> str:
        return self.criterion or ("obs" if evidence.moments else "l2")


def limits(analysis: Analysis, budgets: dict[str, float]) -> list[Limit]:
    """Budgets as shares of what the analysed graph costs."""
    cost = CostModel(analysis, -1)
    terms: dict[str, list[tuple[tuple[Axis, ...], float]]] = {
        "macs": [(axes, 1.0) for axes in cost.macs_terms],
        "params": [(axes, 1.0) for axes in cost.params_terms],
        "bytes": cost.bytes_terms,
    }
    whole = cost.all({})
    return [Limit(name, terms[name], getattr(whole, name), value) for name, value in budgets.items()]


def best(scores: np.ndarray[Any, Any], count: int) -> Mask:
    """The mask that keeps the `count` largest scores; of equals the first. Shape [size]."""
    mask = np.zeros(scores.size, bool)
    mask[np.argsort(-scores, kind="stable")[:count]] = True
    return mask


def _entries(groups: Sequence[Group], masks: dict[Axis, Mask]) -> list[dict[str, Any]]:
    return [
        {
            "name": g.name,
            "size": g.size,
            "kept": int(masks[g.atom].sum()) if g.atom in masks else g.size,
            "coupled": g.coupled,
            "tensors": [str(t) for t in g.touches],
        }
        for g in groups
    ]
