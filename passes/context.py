"""What the passes of one run share: the runtime, the inputs, and what has been seen of the models so far."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pruneopt.analysis.observe import Observation, derived_tensors, observe, observe_bodies
from pruneopt.arrays import Array, Feeds
from pruneopt.frontends.widen import widen, widen_feeds
from pruneopt.model import Model, makers
from pruneopt.passes.claims import Claim
from pruneopt.passes.runtime import Backend, Progress, Session

MOST_KEPT = 1 << 26  # bytes of outputs of one run that are kept
_Sight = tuple[weakref.ref[Model], Observation]


@dataclass
class Context:
    """What passes share during one run.

    Attributes:
        backend: the runtime.
        feeds: two batches at two input sizes, for observation and verification.
        calibration: batches of real inputs, or nothing.
        keep: glob patterns of tensors that must not change.
        seed: seed of everything random.
        threads: threads of the runtime.
        progress: told what happens, a line at a time.
        original: the model that the user gave.
        claim: that of the pass that made the current model, where it made one.
        aim: the model before the first approximation, whose tensors still mean what those of the current one do.
        dropped: inputs and outputs of the original that passes were allowed to take away.
        smaller: inputs and outputs that are to become smaller, with the tensors inside that take their place.
        forwards: how often a model has been run over the calibration data so far, parts counted as such.
    """

    backend: Backend
    feeds: Sequence[Feeds]
    calibration: Sequence[Feeds] = ()
    keep: tuple[str, ...] = ()
    seed: int = 0
    threads: int = 1
    progress: Progress = lambda text: None
    original: Model | None = None
    claim: Claim | None = None
    aim: Model | None = None
    dropped: set[str] = field(default_factory=set)
    smaller: dict[str, str] = field(default_factory=dict)
    forwards: float = 0.0
    _made_of: dict[tuple[int, int], tuple[Model, dict[str, Array]]] = field(default_factory=dict)
    _made: dict[Hashable, Any] = field(default_factory=dict)
    _seen: dict[int, _Sight] = field(default_factory=dict)
    _looks: dict[int, _Sight] = field(default_factory=dict)

    def session(self, model: Model, outputs: Sequence[str] | None = None, optimize: bool = True) -> Session:
        """Load a model; half precision runs as float32."""
        wide = widen(model)
        session = self.backend.session(wide, outputs, self.threads, optimize)
        return session if wide is model else _Widened(session)

    def ran(self, batch: Feeds, part: float = 1.0) -> None:
        """Count a run of a model, or of a part of it, on a batch of calibration data or a piece of one."""
        if self.calibration:
            self.forwards += part * _rows(batch) / sum(map(_rows, self.calibration))

    def observation(self, model: Model) -> Observation:
        """Sizes and values of `model`'s tensors; measured once per model."""
        known = _find(self._seen, model)
        if known is None:
            wide = widen(model)
            feeds = self.feeds if wide is model else list(map(widen_feeds, self.feeds))
            watched = derived_tensors(model.graph).intersection(makers(model.graph))
            known = observe(model, self.backend.observer(wide, watched), feeds, watched)
            observe_bodies(wide, known, self.backend.observer, feeds)
            self.seen(model, known)
        return known

    def remember(self, model: Model, feeds: Feeds, values: dict[str, Array]) -> None:
        """Keep what `model` made of `feeds`, until another model has run: what has been run once is not run again.

        Unless it is so large that running it again is better.
        """
        self._keep_runs(model)
        if sum(v.nbytes for v in values.values() if isinstance(v, np.ndarray)) <= MOST_KEPT:
            self._made_of[id(model), id(feeds)] = (model, values)

    def known(self, model: Model, feeds: Feeds, names: Sequence[str]) -> dict[str, Array] | None:
        """Tensors of a model that has run on these feeds already; None where one of them is missing."""
        _, found = self._made_of.get((id(model), id(feeds)), (model, {}))
        return {name: found[name] for name in names} if all(name in found for name in names) else None

    def once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What `make` returned when it was first called for `key` during this run.

        Where the key holds the `id` of something, what is returned has to hold that, too: numbers are used again.
        """
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def forget(self, model: Model) -> None:
        """Drop all but `model` and the original: what plans were made from and repairs aim at are models, too."""
        self._made.clear()
        self._keep_runs(model)
        self.claim = self.aim = None

    def _keep_runs(self, model: Model) -> None:
        kept = (id(model), id(self.original))
        self._made_of = {key: made for key, made in self._made_of.items() if key[0] in kept}

    def seen(self, model: Model, observation: Observation) -> None:
        """Declare what `model`'s tensors look like; known as long as the model is there."""
        self._seen[id(model)] = weakref.ref(model), observation

    def looks(self, model: Model, observation: Observation) -> None:
        """Declare the sizes of `model`'s tensors, where their values would have to be measured."""
        self._looks[id(model)] = weakref.ref(model), observation

    def sizes(self, model: Model) -> Observation:
        """An observation of `model` that is right about sizes and may lack values."""
        known = _find(self._seen, model) or _find(self._looks, model)
        return known or self.observation(model)

    def same_tensors(self, new: Model, old: Model) -> None:
        """Declare that the tensors of `new` look like those of `old` of the same name."""
        self.seen(new, self.observation(old))


def _find(known: Mapping[int, _Sight], model: Model) -> Observation | None:
    owner, found = known.get(id(model), (None, None))
    return found if owner is not None and owner() is model else None


def _rows(batch: Feeds) -> int:
    return max((array.shape[0] for array in batch.values() if array.ndim), default=1)


@dataclass(frozen=True)
class _Widened:
    """A session of a widened model that takes the original's feeds."""

    inner: Session

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Any]:
        return self.inner.run(widen_feeds(feeds))
