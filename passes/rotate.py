"""Changes the bases of widths so that their last directions matter least. Exact."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from pruneopt.analysis.axes import Axis, atoms
from pruneopt.analysis.infer import Analysis, analyse
from pruneopt.arrays import Array
from pruneopt.model import Model
from pruneopt.passes.base import Outcome
from pruneopt.passes.claims import Unchanged
from pruneopt.passes.context import Context
from pruneopt.passes.options import check_names
from pruneopt.passes.rewriting.shrink import twins
from pruneopt.passes.rotation.attention import HeadTurner
from pruneopt.passes.rotation.bottlenecks import Bottleneck, find_bottlenecks
from pruneopt.passes.rotation.linear import NotLinear
from pruneopt.passes.rotation.streams import find_residual
from pruneopt.passes.rotation.turning import Editor, Spread, turn
from pruneopt.passes.statistics.consumers import find_consumers
from pruneopt.passes.statistics.evidence import gather
from pruneopt.passes.statistics.rows import pick
from pruneopt.passes.statistics.stream import hold_out, small_batches, valid_tokens

SAMPLES = 20_000  # rows of each norm's input
AXES = ("heads", "stream")


@dataclass(frozen=True)
class Rotate:
    """Turn widths that all ops treat linearly into bases sorted by how much each direction matters.

    Attributes:
        axes: which, of `heads` (query/key and value widths) and `stream` (the residual width, its norms without
            mean and gain, and other widths under no norm that are linear all round), joined by `+`.
    """

    axes: str = "heads+stream"

    def __post_init__(self) -> None:
        check_names("rotate", "axis", self.axes.split("+"), AXES)

    def run(self, model: Model, context: Context) -> Outcome:
        """The rotated model; the model as it is without calibration data."""
        if not context.calibration:
            return Outcome(model, {"rotated": 0})
        analysis = analyse(model, context.observation(model), context.keep)
        made = model.copy()
        editor = Editor(made, twins(model, made))
        heads = HeadTurner(analysis, editor)
        found = _Residuals(analysis, set(heads.candidates())) if "stream" in self.axes else None
        fit, _ = hold_out(small_batches(context))
        narrow = found.bottlenecks if found else []
        sampler = _Sampler(found.spreads if found else [], narrow, fit, context.seed)
        wanted = heads.candidates() if "heads" in self.axes else []
        evidence = gather(analysis, wanted, context, fit, sampler.watched())
        count = heads.turn_all(evidence)
        for spread in sampler.spreads:
            turn(spread.residual, spread.basis(), editor)
        for bottleneck in narrow:
            bottleneck.turn(editor)
        streams = len(sampler.spreads) + len(narrow)
        entry = {"rotated": count, "streams": streams, "left": found.left if found else []}
        if not count and not streams:
            return Outcome(model, entry)
        editor.restore_names()
        if not streams:  # no tensor is new
            context.same_tensors(made, model)
        return Outcome(made, entry, Unchanged(model, context.feeds))


class _Residuals:
    """The residual streams of a model: those that can be turned, and why others under a norm cannot."""

    def __init__(self, analysis: Analysis, heads: set[Axis]) -> None:
        consumers = {id(c.node): c for c in find_consumers(analysis)}
        self.bottlenecks = list(find_bottlenecks(analysis, consumers, heads))
        self.spreads: list[Spread] = []
        self.left: list[dict[str, str]] = []
        for atom in _under_norms(analysis):
            try:
                residual = find_residual(analysis, atom, consumers)
            except NotLinear as reason:
                self.left.append({"axis": _name(analysis, atom), "why": str(reason)})
                continue
            if residual.norms:
                self.spreads.append(Spread(residual))


def _under_norms(analysis: Analysis) -> list[Axis]:
    """Static atoms of more than one entry that a statistic runs over, free and in graph order."""
    found = {a: None for use in analysis.uses if use.weight for axis in use.axes for a in atoms(axis)}
    return [a for a in found if a.coupled and not a.frozen and a.static and a.size[0] > 1]


def _name(analysis: Analysis, atom: Axis) -> str:
    named = (
        f"{use.constant.name}:{dim}"
        for use in analysis.uses
        if use.weight
        for dim, axis in enumerate(use.axes)
        if atom in atoms(axis)
    )
    return next(named, "?")


@dataclass
class _Sampler:
    """Feeds rows of the tensors that norms and bottlenecks' readers read to those who sum them up."""

    spreads: list[Spread]
    bottlenecks: list[Bottleneck]
    batches: list[Mapping[str, Array]]
    seed: int
    _valid: list[Array | None] = field(default_factory=list)

    def watched(self) -> dict[str, Callable[[int, Array], None]]:
        """By tensor what is to be done with its value in a batch of that number."""
        self._valid = [valid_tokens(batch) for batch in self.batches]
        takers: dict[str, list[tuple[int, Callable[[Array], None]]]] = {}
        for spread in self.spreads:
            for norm in spread.residual.norms:
                takers.setdefault(norm.data, []).append((-1, partial(spread.add, norm)))
        for bottleneck in self.bottlenecks:
            for name, dim in bottleneck.watched().items():
                takers.setdefault(name, []).append((dim, partial(bottleneck.add, name)))
        return {name: self._watch(name, found) for name, found in takers.items()}

    def _watch(
        self, name: str, takers: list[tuple[int, Callable[[Array], None]]]
    ) -> Callable[[int, Array], None]:
        share = max(1, -(-SAMPLES // len(self.batches)))

        def watch(batch: int, data: Array) -> None:
            for dim, take in takers:
                flat = np.moveaxis(data, dim, -1).reshape(-1, data.shape[dim])
                take(flat[pick(len(flat), share, self._valid[batch], [self.seed, batch], name)])

        return watch
