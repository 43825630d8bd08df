"""The latency of a model as a cost that planners follow, from the times of its kernels at a few widths.

The model is timed whole, with its groups at different widths each time: kernels are then what they will be,
fused, in the runtime's own layout, with caches as warm as they get. What was timed once on a machine is not
timed again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from pruneopt.analysis.axes import Axis
from pruneopt.analysis.groups import Group, alignment
from pruneopt.analysis.infer import Analysis
from pruneopt.analysis.masks import size_of
from pruneopt.errors import PruneoptError
from pruneopt.model import Model
from pruneopt.passes.context import Context
from pruneopt.passes.planning.alone import cut_out
from pruneopt.passes.planning.costs import latency_of
from pruneopt.passes.planning.fit import Timed, remainder, settle_all
from pruneopt.passes.planning.sites import Layout, Numbering
from pruneopt.passes.planning.tally import Limit, Tally, Term, Volume
from pruneopt.passes.rewriting.shrink import shrink
from pruneopt.passes.runtime import Kernels

Kept = Mapping[Axis, int]
PLANS = 8  # smaller versions of the model that are timed
WIDEST, NARROWEST = 0.95, 0.15  # shares of the groups in them
ALIGN = 8
QUIET = 0.85  # share of the kernels' times that is their own, for a measurement that other runs may use
SETTLED = 0.9  # the same for what was timed again
LONG = 0.8  # milliseconds; shorter kernels run undisturbed at least once
ALONE = 0.02  # seconds that a kernel is timed alone


class Stopwatch:
    """Times an analysed model and smaller versions of it."""

    def __init__(self, analysis: Analysis, groups: Sequence[Group], context: Context) -> None:
        self.analysis = analysis
        self.groups = groups
        self.context = context
        self.feeds = analysis.seen.feeds[-1]
        self._timings = context.backend.timings(context.threads)
        self._wholes: list[tuple[float, float]] = []  # of each run: its kernels, all of it
        self._start()
        plans = _plans(groups, context.seed)
        for i, kept in enumerate(plans):
            context.progress(f"latency table ({i + 1} of {len(plans)})")
            self._sample(kept)
        settle_all([*self._timed.values()])

    def limit(self, share: float) -> Limit:
        """A share of the original's latency, in milliseconds."""
        between, scale = remainder(self._wholes)
        for term in self._timed.values():
            term.scale = scale
        terms: list[Term] = [*self._timed.values(), Volume((), between + scale * self._fixed)]
        original = Tally(Limit("latency", terms, 1.0, share)).total / self._ratio
        return Limit("latency", terms, original, share, uneven=True)

    def measure(self, model: Model, kept: Kept) -> float:
        """Share of the original's latency that a smaller version has, in turns; its kernels are learnt from."""
        self._learn(self._run(model), kept)
        settle_all([*self._timed.values()])
        return latency_of(model, self.feeds, self.context)

    def _start(self) -> None:
        """Time the model as it is: which kernels there are, and the original."""
        self.context.progress("latency table")
        number = Numbering(self.analysis.model)
        marked = number.marked(self.analysis.model)
        found = self.context.backend.kernels(marked, self.feeds, self.context.threads)
        self._layout = Layout(self.analysis, found.times, number)
        self._ratio = latency_of(self.analysis.model, self.feeds, self.context)
        free = {g.atom for g in self.groups}
        axes = {i: tuple(site.varying(free)) for i, site in self._layout.sites.items()}
        self._timed = {i: Timed(self._layout.sites[i], axes[i]) for i in axes if axes[i]}
        run = self._settled(marked, found)
        self._fixed = sum(ms for i, ms in run.sites.items() if i not in self._timed)
        self._learn(run, {})

    def _sample(self, kept: Kept) -> None:
        """Learn the times at these sizes, from the table or else from a run."""
        keys = self._keys(kept)
        whole = _whole(keys)
        known = self._timings.get([*keys.values(), whole])
        if whole in known and len(known) > len(set(keys.values())):
            self._take({i: known[key] for i, key in keys.items()}, known[whole], 1.0, kept)
            return
        masks = {a: np.arange(a.size[0]) < n for a, n in kept.items() if n < a.size[0]}
        try:
            run = self._run(shrink(self.analysis, masks))
        except PruneoptError:  # a width that the runtime refuses tells nothing of the others
            return
        self._learn(run, kept)

    def _keys(self, kept: Kept) -> dict[int, str]:
        return {i: term.site.key(kept) for i, term in self._timed.items()}

    def _learn(self, run: Run, kept: Kept) -> None:
        """Take the times of a run, the same for equal kernels, and keep them for other runs."""
        found: dict[str, float] = {}
        keys = self._keys(kept)
        for i, key in keys.items():
            found[key] = min(run.sites[i], found.get(key, run.sites[i]))
        if run.own > QUIET:
            self._timings.put(found | {_whole(keys): run.whole})
        self._take({i: found[key] for i, key in keys.items()}, run.whole, run.own**2, kept)

    def _take(self, times: Mapping[int, float], whole: float, trust: float, kept: Kept) -> None:
        self._wholes.append((sum(times.values()) + self._fixed, whole))
        for i, term in self._timed.items():
            term.add([size_of(a, kept, -1) for a in term.axes], times[i], trust)

    def _run(self, model: Model) -> Run:
        marked = self._layout.number.marked(model)
        return self._settled(marked, self.context.backend.kernels(marked, self.feeds, self.context.threads))

    def _settled(self, marked: Model, found: Kernels) -> Run:
        """Times of the sites; where other programs took of them, long ones are timed again, alone."""
        times = self._layout.times(found.times)
        if found.own > QUIET:
            return Run(times, found.whole, found.own)
        backend, parts = self.context.backend, self._layout.parts(marked)
        times = {i: ms / found.own for i, ms in times.items()}
        long = [i for i in parts if times[i] > LONG]
        cuts = cut_out(marked, [parts[i] for i in long], self.feeds, backend)
        for i, cut in zip(long, cuts, strict=True):
            if cut is not None:
                again = backend.kernels(cut.model, cut.feeds, self.context.threads, ALONE)
                named = (ms for name, ms in again.times if self._layout.number.of(name) is not None)
                times[i] = sum(named)
        return Run(times, found.whole, SETTLED)


@dataclass(frozen=True)
class Run:
    """Milliseconds of each site and of the whole run, and how far that is to be trusted, up to 1."""

    sites: Mapping[int, float]
    whole: float
    own: float


def _whole(keys: Mapping[int, str]) -> str:
    """The name in the latency table of a whole model with these kernels."""
    return f"model {sha256(' '.join(keys.values()).encode()).hexdigest()[:24]}"


def _plans(groups: Sequence[Group], seed: int) -> list[dict[Axis, int]]:
    """Sizes of all groups for each version to time: every group sees every level once, in an order of its own."""
    rng = np.random.default_rng(seed)
    plans: list[dict[Axis, int]] = [{} for _ in range(PLANS)]
    levels = np.linspace(WIDEST, NARROWEST, PLANS)
    for group in groups:
        step = alignment(group, ALIGN)
        for plan, level in zip(plans, rng.permutation(levels), strict=True):
            size = max(step, group.least, round(level * group.size / step) * step)
            plan[group.atom] = min(size, group.size)
    return plans if groups else []
