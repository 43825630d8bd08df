"""Changes the bases of widths so that their last directions matter least. Exact."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

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
from pruneopt.passes.rotation.linear import NotLinear
from pruneopt.passes.rotation.norms import Norm
from pruneopt.passes.rotation.streams import find_residual
from pruneopt.passes.rotation.turning import Editor, Spread, turn
from pruneopt.passes.statistics.consumers import find_consumers
from pruneopt.passes.statistics.evidence import gather
from pruneopt.passes.statistics.rows import pick
from pruneopt.passes.statistics.stream import hold_out, split_batches, valid_tokens

SAMPLES = 20_000  # rows of each norm's input
AXES = ("heads", "stream")


@dataclass(frozen=True)
class Rotate:
    """Turn widths that all ops treat linearly into bases sorted by how much each direction matters.

    Attributes:
        axes: which, of `heads` (query/key and value widths) and `stream` (the residual width, its norms without
            mean and gain), joined by `+`.
    """

    axes: str = "heads+stream"

    def __post_init__(self) -> None:
        check_names("rotate", "axis", self.axes.split("+"), AXES)

    def run(self, model: Model, context: Context) -> Outcome:
        """The rotated model; the model as it is without calibration data."""
        if not context.calibration:
            return Outcome(model, {"rotated": 0})
        analysis = analyse(model, context.observation(model), context.keep)
        found = _Residuals(analysis) if "stream" in self.axes else None
        made = model.copy()
        editor = Editor(made, twins(model, made))
        heads = HeadTurner(analysis, editor)
        fit, _ = hold_out(split_batches(context.calibration))
        sampler = _Sampler(found.spreads if found else [], fit, context.seed)
        wanted = heads.candidates() if "heads" in self.axes else []
        evidence = gather(analysis, wanted, context, fit, sampler.watched())
        count = heads.turn_all(evidence)
        for spread in sampler.spreads:
            turn(spread.residual, spread.basis(), editor)
        entry = {"rotated": count, "streams": len(sampler.spreads), "left": found.left if found else []}
        if not count and not sampler.spreads:
            return Outcome(model, entry)
        editor.restore_names()
        if not sampler.spreads:  # no tensor is new
            context.same_tensors(made, model)
        return Outcome(made, entry, Unchanged(model, context.feeds))


class _Residuals:
    """The residual streams of a model: those that can be turned, and why others cannot."""

    def __init__(self, analysis: Analysis) -> None:
        consumers = {id(c.node): c for c in find_consumers(analysis)}
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
    """Feeds rows of the tensors that norms read to their spreads."""

    spreads: list[Spread]
    batches: list[Mapping[str, Array]]
    seed: int
    _valid: list[Array | None] = field(default_factory=list)

    def watched(self) -> dict[str, Callable[[int, Array], None]]:
        """By tensor what is to be done with its value in a batch of that number."""
        self._valid = [valid_tokens(batch) for batch in self.batches]
        readers: dict[str, list[tuple[Spread, Norm]]] = {}
        for spread in self.spreads:
            for norm in spread.residual.norms:
                readers.setdefault(norm.data, []).append((spread, norm))
        return {name: self._watch(name, found) for name, found in readers.items()}

    def _watch(self, name: str, readers: list[tuple[Spread, Norm]]) -> Callable[[int, Array], None]:
        share = max(1, -(-SAMPLES // len(self.batches)))

        def watch(batch: int, data: Array) -> None:
            flat = data.reshape(-1, data.shape[-1])
            rows = flat[pick(len(flat), share, self._valid[batch], [self.seed, batch], name)]
            for spread, norm in readers:
                spread.add(norm, rows)

        return watch
