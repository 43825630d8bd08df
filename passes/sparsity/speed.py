"""Zeros until a model is fast enough: shares per layer that do least harm within a budget in measured time.

A layer's time is that of its kernel at a few shares of zeros, and dense below the least of them, or where dense is
faster. What is kept of a layer is an axis of its own, in 64ths, so that the planner of widths plans zeros, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

import numpy as np

from pruneopt.analysis.axes import Axis
from pruneopt.analysis.groups import Group
from pruneopt.analysis.infer import Analysis
from pruneopt.arrays import Array
from pruneopt.errors import PruneoptError
from pruneopt.model import Model, makers, values
from pruneopt.passes.context import Context
from pruneopt.passes.planning.allocate import Choice, allocate
from pruneopt.passes.planning.confirm import confirmed
from pruneopt.passes.planning.costs import latency_of
from pruneopt.passes.planning.sites import Layout, Numbering
from pruneopt.passes.planning.tally import Limit, Term, Volume
from pruneopt.passes.rewriting.weights import set_weight
from pruneopt.passes.runtime import ZeroKernels
from pruneopt.passes.sparsity.layers import shape
from pruneopt.passes.sparsity.methods.magnitude import magnitude
from pruneopt.passes.sparsity.patterns import Pattern
from pruneopt.passes.sparsity.sites import LEVELS
from pruneopt.passes.statistics.consumers import Consumer

TIMED = (0.5, 0.7, 0.8, 0.9, 0.95)  # shares of zeros at which kernels are timed
STEPS = 64  # parts of a layer that can be kept
CAPPED = 8  # times that a plan is made again with fewer zeros at most
Kept = dict[Axis, int]


@dataclass(frozen=True)
class Kernel:
    """The time of one layer; a term of a budget. `times` are milliseconds by the number of 64ths kept."""

    axes: tuple[Axis, ...]
    times: Array

    def at(self, sizes: Sequence[int]) -> float:
        """Milliseconds when so much of the layer is kept."""
        return float(self.times[sizes[0]])


class Watch:
    """Times a model with zeros in its layers.

    Attributes:
        atoms: the axis of each layer: how much of it is kept.
        times: milliseconds of each layer at 0 to 64 64ths kept.
    """

    def __init__(
        self,
        analysis: Analysis,
        layers: Sequence[Consumer],
        pattern: Pattern,
        kernels: ZeroKernels,
        context: Context,
    ) -> None:
        self.analysis, self.pattern, self.kernels, self.context = analysis, pattern, kernels, context
        self.feeds = context.calibration[0] if context.calibration else context.feeds[-1]
        self.atoms = {c: Axis((STEPS,)) for c in layers}
        context.progress("time the layers as they are")
        dense, self.whole = self._dense()
        shares = (pattern.share,) if pattern.share is not None else TIMED
        found: dict[str, list[float]] = {c.name: [] for c in layers}
        for share in shares:
            made = zeroed(analysis.model, dict.fromkeys(layers, share), pattern)
            timed = kernels.times(made, self.feeds, partial(self._tell, share))
            for name, each in found.items():
                each.append(timed.get(name, np.inf))
        self.times = {c: _by_parts(dense[c], shares, found[c.name]) for c in layers}
        self.rest = max(0.0, self.whole - sum(dense.values()))
        self.original = self.whole / latency_of(analysis.model, self.feeds, context)

    def limit(self, share: float) -> Limit:
        """A share of the original's latency, in milliseconds."""
        terms: list[Term] = [Kernel((atom,), self.times[c]) for c, atom in self.atoms.items()]
        return Limit("latency", [*terms, Volume((), self.rest)], self.original, share, uneven=True)

    def measure(self, model: Model, kept: Kept) -> float:
        """Share of the original's latency that the model with these zeros has, in turns."""
        original = self.context.original or self.analysis.model
        return self.kernels.ratio(original, model, self.feeds, self.context.progress)

    def shares(self, kept: Kept) -> dict[Consumer, float]:
        """Shares of zeros of the layers that become sparse."""
        own = self.pattern.share
        found = {c: 1 - kept[atom] / STEPS for c, atom in self.atoms.items()}
        return {c: s if own is None else own for c, s in found.items() if s > 0}

    def _tell(self, share: float, text: str) -> None:
        self.context.progress(f"kernels at {share:.0%}: {text}")

    def _dense(self) -> tuple[dict[Consumer, float], float]:
        """Milliseconds of each layer and of the model as it is; what runs as one is shared out by its products."""
        number = Numbering(self.analysis.model)
        marked = number.marked(self.analysis.model)
        found = self.context.backend.kernels(marked, self.feeds, self.context.threads)
        layout = Layout(self.analysis, found.times, number)
        times = layout.times(found.times)
        parts = layout.parts(marked).items()
        site = {number.of(node.name): i for i, nodes in parts for node in nodes}
        own = {c: site.get(number.of(c.name), -1) for c in self.atoms}
        weights = Counter[int]()
        for c, i in own.items():
            weights[i] += prod(shape(c))
        return {c: times.get(i, 0.0) * prod(shape(c)) / weights[i] for c, i in own.items()}, found.whole


def planned(
    share: float, harm: Mapping[Consumer, Array], watch: Watch
) -> tuple[dict[Consumer, float], list[Mapping[str, float]]]:
    """Shares of zeros that do least harm with a latency of at most `share` of the original's, as measured.

    Args:
        share: of the latency.
        harm: of each layer at the shares of zeros in LEVELS. Beyond half of the weights that are left on average it
            says little, so that a layer gets as many zeros only where the latency asks for it.
        watch: knows the times.

    Returns:
        The share of each layer that becomes sparse, and what was planned and measured on the way.

    Raises:
        PruneoptError: not even the fewest weights are fast enough.
    """

    def plan(limits: Sequence[Limit]) -> Kept:
        kept, most = allocate(_choices(watch, harm, max(TIMED)), limits), max(TIMED)
        for _ in range(CAPPED if watch.pattern.share is None else 0):
            before, most = most, (1 + _mean(watch.shares(kept), watch)) / 2
            if most >= before:
                break
            try:
                kept = allocate(_choices(watch, harm, most), limits)
            except PruneoptError:  # the latency asks for more
                break
        return kept

    def build(kept: Kept) -> Model:
        return zeroed(watch.analysis.model, watch.shares(kept), watch.pattern)

    kept, rounds = confirmed(share, plan, build, watch, watch.context.progress)
    return watch.shares(kept), rounds


def zeroed(model: Model, shares: Mapping[Consumer, float], pattern: Pattern) -> Model:
    """A copy with zeros by magnitude: as fast as one with better zeros."""
    made = model.copy()
    nodes = makers(made.graph)
    for c, share in shares.items():
        weight = c.as_matrix(values(c.use.constant)).astype(np.float32)
        cut = np.stack([magnitude(w, None, pattern, share) for w in weight])
        set_weight(made, nodes[c.name], c.stored(cut), c.slot)
    return made


def _mean(shares: Mapping[Consumer, float], watch: Watch) -> float:
    """Share of zeros of the layers that can gain by them, together."""
    sizes = {c: prod(shape(c)) for c in watch.atoms if watch.times[c].min() < watch.times[c][STEPS]}
    return sum(size * shares.get(c, 0.0) for c, size in sizes.items()) / (sum(sizes.values()) or 1)


def _choices(watch: Watch, harm: Mapping[Consumer, Array], most: float) -> list[Choice]:
    return [_choice(c, atom, harm[c], watch.pattern, most) for c, atom in watch.atoms.items()]


def _choice(consumer: Consumer, atom: Axis, harm: Array, pattern: Pattern, most: float) -> Choice:
    """What may be kept of a layer: all but a share of zeros of `most`, or what the pattern says."""
    least = _parts(most if pattern.share is None else pattern.share)
    parts = np.arange(STEPS, least - 1, -1) if pattern.share is None else np.array([STEPS, least])
    group = Group(consumer.use.constant.name, atom, (), 1, frozenset())
    damage = np.interp(1 - parts / STEPS, LEVELS, harm)
    return Choice(group, parts, np.maximum.accumulate(damage - damage[0]))


def _parts(share: float) -> int:
    """64ths that are kept when a share is zero: one at least, and not all."""
    return min(STEPS - 1, max(1, round(STEPS * (1 - share))))


def _by_parts(dense: float, shares: Sequence[float], times: Sequence[float]) -> Array:
    """Milliseconds by the number of parts kept: dense where no kernel is faster."""
    zeros = 1 - np.arange(STEPS + 1) / STEPS
    sparse = np.interp(zeros, shares, times)
    known = zeros >= min(shares) - 1 / STEPS
    return np.where(known & np.isfinite(sparse), np.minimum(sparse, dense), dense)
