"""Removes depth: residual blocks, whole layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from pruneopt.analysis.blocks import Block, Blocks, outermost
from pruneopt.analysis.infer import analyse
from pruneopt.errors import PruneoptError, UsageError
from pruneopt.model import Model
from pruneopt.passes.base import Outcome
from pruneopt.passes.context import Context
from pruneopt.passes.depth.allowed import named, objection
from pruneopt.passes.depth.bypass import Amends, bypass
from pruneopt.passes.depth.choice import Wanted, choose
from pruneopt.passes.depth.criteria import find_criterion
from pruneopt.passes.depth.exits import Gated, gated, later_heads
from pruneopt.passes.depth.judge import Judge
from pruneopt.passes.depth.laco import merge_layers
from pruneopt.passes.depth.linear import fit_maps
from pruneopt.passes.depth.order import reorder_layers
from pruneopt.passes.depth.select import Costs
from pruneopt.passes.depth.study import Study
from pruneopt.passes.depth.switches import Bypassed
from pruneopt.passes.options import Budgeted, check_names, check_share
from pruneopt.passes.proof import prove
from pruneopt.passes.statistics.stream import hold_out, small_batches

FORWARDS = 12.0  # passes over the calibration set that all trials together may take
FEWEST = 4  # batches that a trial runs on at least
PARTS = ("all", "encoder", "decoder")


@dataclass(frozen=True)
class Depth(Budgeted):
    """Bypass blocks: structure, score, amount, rewrite.

    Attributes:
        ratio: share of the layers kept; or `drop`, `blocks`, or one or both of the budgets.
        drop: number of layers that go.
        blocks: names of the blocks that go, joined by `+`, as `pruneopt inspect` prints them.
        macs: share of the multiply-accumulates to keep at most.
        params: share of the parameters to keep at most.
        criterion: name of the score (`passes.depth.criteria`); `greedy` by default.
        unit: `layer`, or `block` for its sub-layers each by itself; budgets choose among blocks by default.
        part: `encoder` or `decoder` of a model that has both: a decoder is what reads another stream's end.
        cache: blocks that feed outputs of their own (key-value caches) may go, and these outputs and inputs with them.
        only: glob pattern of block names, or of names of tensors or nodes inside.
        fit: `linear` puts a linear map in the place of dropped blocks where that helps (needs calibration data).
        exit: name of an output that answers for later ones of its size: an early exit.
        entropy: only where the exit is sure; the threshold on its entropy, as a share of the largest possible.
        reorder: neighbouring layers of one build change places where that helps.
        merge: add what dropped layers have over the layer before them to its weights, where that helps (LaCo).
    """

    ratio: float | None = None
    drop: int | None = None
    blocks: str | None = None
    macs: float | None = None
    params: float | None = None
    criterion: str | None = None
    unit: str | None = None
    part: str = "all"
    cache: bool = False
    only: str = "*"
    fit: str | None = None
    merge: bool = False
    reorder: bool = False
    exit: str | None = None
    entropy: float | None = None

    def __post_init__(self) -> None:
        for name in ("ratio", "macs", "params"):
            check_share("depth", name, getattr(self, name))
        check_names("depth", "part", [self.part], PARTS)
        check_names("depth", "unit", [self.unit], ("layer", "block"))
        check_names("depth", "fit", [self.fit], ("linear",))
        if self.drop is not None and self.drop < 0:
            raise UsageError(f"depth: drop={self.drop} is not a number of layers")
        if bool(self.fit) + self.merge + self.reorder > 1:
            raise UsageError("depth: choose fit, merge or reorder; each makes up for the same blocks")
        if self.entropy is not None and (self.exit is None or not 0 < self.entropy <= 1):
            raise UsageError(
                "depth: entropy is a share in (0, 1] and needs exit, the output that it is taken of"
            )
        ways = [getattr(self, name) is not None for name in ("ratio", "drop", "blocks", "exit")]
        if sum(ways) + bool(self.budgets) != 1:
            raise UsageError(
                "depth: say how much goes, with one of ratio, drop, blocks, exit or a budget (macs, params)"
            )
        find_criterion(self.criterion or "greedy")

    def run(self, model: Model, context: Context) -> Outcome:
        """Find the blocks, score them, bypass the cheapest; the claim says which.

        Raises:
            PruneoptError: nothing can be removed, or not as much as was asked for.
            UsageError: `fit`, `merge` or `reorder` without calibration data.
        """
        if self._way and not context.calibration:
            raise UsageError(f"depth: {self._way} needs real inputs; give --calib")
        blocks = Blocks(analyse(model, context.observation(model)))
        if self.exit is not None:
            return self._leave(blocks, later_heads(blocks, self.exit), context)
        if self.blocks is not None:
            return self._rewrite(blocks, named(self.blocks, blocks, context, self.cache), context, {})
        sets = self._sets(blocks, context)
        every = list({unit.name: unit for units in sets for unit in units}.values())
        study = Study(blocks, every, context, trial_batches(context, len(every)))
        wanted = Wanted(self.criterion or "greedy", self.ratio, self.drop, self.budgets)
        if self.fit and self.budgets:  # maps cost something: then more has to go than without them
            return self._cheaper(study, sets, wanted, context)
        dropped, entry = choose(study, sets, wanted)
        return self._rewrite(blocks, dropped, context, entry | _data(context))

    def _cheaper(
        self, study: Study, sets: Sequence[list[Block]], wanted: Wanted, context: Context
    ) -> Outcome:
        """Blocks chosen with the cost of their maps, or fewer without maps: what does less damage on held-out data."""
        outcomes: list[tuple[float, bool, Outcome]] = []
        _, held = hold_out(small_batches(context))
        for mapped in (True, False):
            try:
                dropped, entry = choose(study, sets, replace(wanted, mapped=mapped))
            except PruneoptError:
                if outcomes or mapped:
                    continue
                raise
            each = self if mapped else replace(self, fit=None)
            outcome = each._rewrite(study.blocks, dropped, context, entry)
            judge = Judge(study.blocks, dropped, context, held)
            outcomes.append((judge.of(outcome.model), not mapped, outcome))
        return min(outcomes, key=lambda found: found[:2])[2]

    def _sets(self, blocks: Blocks, context: Context) -> list[list[Block]]:
        """What to choose among: a budget takes sub-layers or whole layers, whichever does less damage."""
        if self.unit or not self.budgets:
            return [self.candidates(blocks, context, self.unit or "layer")]
        sets = [self.candidates(blocks, context, "block")]
        layers = [b for b in blocks.units("layer") if self._wants(b, blocks)]
        free = [b for b in layers if not objection(b, blocks, context, self.cache)]
        return [*sets, free] if free else sets

    def candidates(self, blocks: Blocks, context: Context, unit: str = "layer") -> list[Block]:
        """The blocks that may go.

        Raises:
            PruneoptError: there are none; the message says what stands against those that were found.
        """
        wanted = [b for b in blocks.units(unit) if self._wants(b, blocks)]
        free = [b for b in wanted if not objection(b, blocks, context, self.cache)]
        if free:
            return free
        if not blocks.all():
            raise PruneoptError(
                "depth: the model has no residual block: nothing leads around any of its layers"
            )
        if not wanted:
            raise PruneoptError(
                f"depth: no block matches; there are {', '.join(b.name for b in blocks.all()[:9])}"
            )
        first = wanted[0]
        raise PruneoptError(f"depth: {first.name} cannot go: {objection(first, blocks, context, self.cache)}")

    def _wants(self, block: Block, blocks: Blocks) -> bool:
        if self.part != "all" and (block.name.partition(".")[0] in blocks.decoder) != (
            self.part == "decoder"
        ):
            return False
        return any(fnmatchcase(name, self.only) for name in (block.name, *blocks.names(block)))

    def _rewrite(
        self, blocks: Blocks, dropped: Sequence[Block], context: Context, entry: dict[str, Any]
    ) -> Outcome:
        model, costs = blocks.analysis.model, Costs(blocks, context)
        dropped = sorted(outermost(dropped), key=lambda b: blocks.flow.maker[b.exit])
        listed = [
            {"name": b.name, "entry": b.entry, "exit": b.exit, "macs": costs.saved("macs", [b])}
            for b in dropped
        ]
        entry = {"dropped": listed, **entry}
        if not dropped:
            return Outcome(model, entry)
        amends = self._amends(blocks, dropped, context)
        entry |= {"mapped": list(amends.maps), "changed": _owners(blocks, amends)}
        small = bypass(blocks, dropped, amends)
        ends = _gone(model, small)
        context.dropped.update(ends)
        if ends:
            entry["signature"] = sorted(ends)
        return Outcome(small, entry, Bypassed(blocks, dropped, amends))

    def _leave(self, blocks: Blocks, heads: Sequence[Block], context: Context) -> Outcome:
        """Early exit: the later heads go, or run where the early one is not sure."""
        if self.entropy is None:
            return self._rewrite(blocks, heads, context, {})
        for forced in (2.0, -1.0):  # always sure, never sure: both branches are proved, whatever inputs take
            prove(gated(blocks, heads, forced), Gated(blocks, heads, forced), context)
        entry = {"exit": self.exit, "answers_for": [b.exit for b in heads]}
        return Outcome(gated(blocks, heads, self.entropy), entry, Gated(blocks, heads, self.entropy))

    def _amends(self, blocks: Blocks, dropped: Sequence[Block], context: Context) -> Amends:
        """What makes up for the dropped blocks."""
        if not self._way:
            return Amends()
        context.progress(self._way)
        fit, held = hold_out(small_batches(context))
        judge = Judge(blocks, dropped, context, held)
        if self.fit:
            return fit_maps(blocks, dropped, judge, fit)
        return (merge_layers if self.merge else reorder_layers)(blocks, dropped, judge)

    @property
    def _way(self) -> str:
        """What makes up for dropped blocks, if anything."""
        return next((name for name in ("fit", "merge", "reorder") if getattr(self, name)), "")


def _owners(blocks: Blocks, amends: Amends) -> list[str]:
    """The layers whose weights changed."""
    places = {place for place, _ in amends.weights}
    return [layer.name for layer in blocks.layers if places & layer.nodes]


def _gone(before: Model, after: Model) -> set[str]:
    """Names of the inputs and outputs that a rewrite took away."""
    ends = ({t.name for t in (*m.graph.inputs, *m.graph.outputs)} for m in (before, after))
    first, second = ends
    return first - second


def trial_batches(context: Context, units: int) -> Sequence[Any]:
    """As many batches as the trials have time for."""
    if not context.calibration:
        return context.feeds
    fit, _ = hold_out(small_batches(context))
    trials = units * (units + 1) / 2 / 2
    return fit[: max(FEWEST, int(FORWARDS * len(fit) / max(trials, 1)))]


def _data(context: Context) -> dict[str, Any]:
    if context.calibration:
        return {}
    note = "the blocks were scored on synthetic inputs, not on real data; give --calib"
    context.progress(note)
    return {"note": note}
