"""What a pass is: a frozen dataclass whose fields are its options, and one verb.

`run(model, context)` returns a new model and a report entry. A pass that removes something also returns
its `Claim`: how the input model, masked, must equal the output. `Pipeline` is a pass; it proves every
claim before the next pass runs, so that a model that fails is never seen by anyone.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pruneopt.analysis.bodies import main_tensors
from pruneopt.analysis.observe import Feeds, Observation, Observer, derived_tensors, observe, observe_bodies
from pruneopt.frontends.widen import has_halves, widen, widen_feeds
from pruneopt.model import Model
from pruneopt.passes.proof import prove as prove

Array = npt.NDArray[Any]
Progress = Callable[[str], None]
MOST_KEPT = 1 << 26  # bytes of outputs of one run that are kept
_Sight = tuple[weakref.ref[Model], Observation]


class Session(Protocol):
    """A loaded model."""

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Any]:
        """Output name -> value."""


class Timing(Protocol):
    """A latency in milliseconds, its ratio to that of the first model of the same rounds, and the ratio's spread."""

    @property
    def median_ms(self) -> float: ...
    @property
    def ratio_to_first(self) -> float: ...
    @property
    def spread(self) -> float: ...


class Kernels(Protocol):
    """Milliseconds of each kernel by name, in order, and of the whole run; the share that was not disturbed."""

    @property
    def times(self) -> list[tuple[str, float]]: ...
    @property
    def whole(self) -> float: ...
    @property
    def own(self) -> float: ...


class Timings(Protocol):
    """Kernels that have been timed before on this machine: signature -> milliseconds."""

    def get(self, kernels: Sequence[str]) -> dict[str, float]:
        """Those that are known."""

    def put(self, found: Mapping[str, float]) -> None:
        """Keep measurements for other runs."""


class ZeroKernels(Protocol):
    """How fast a model with zeros is once it has kernels for them."""

    def times(self, model: Model, feeds: Feeds, tell: Progress) -> dict[str, float]:
        """Milliseconds of the kernel of each layer with zeros, by the name of what its node makes."""

    def ratio(self, dense: Model, sparse: Model, feeds: Feeds, tell: Progress) -> float:
        """Latency of a sparse model with its kernels as a share of the dense one's, in turns."""


class Backend(Protocol):
    """What passes need of a runtime; `backends.ort` is the one that ships."""

    def session(
        self, model: Model, outputs: Sequence[str] | None = None, threads: int = 1, optimize: bool = True
    ) -> Session:
        """Load a model."""

    def observer(self, model: Model, wanted: Collection[str] = ()) -> Observer:
        """Load a model so that the shapes of all and the values of some tensors can be seen."""

    def compare(
        self, a: Model, b: Model, feeds: Feeds, threads: int = 1, seconds: float = 1.0
    ) -> tuple[Timing, Timing]:
        """Latency of two models on the same feeds, measured in turns for about so many seconds."""

    def kernels(self, model: Model, feeds: Feeds, threads: int = 1, seconds: float = 0.2) -> Kernels:
        """Where the time of one run goes, each way of timing it for about so many seconds."""

    def timings(self, threads: int = 1) -> Timings:
        """What has been measured before on this machine."""

    def zeros(self, target: str, threads: int = 1) -> ZeroKernels:
        """Kernels for sparse weights. Raises PruneoptError where what compiles them is missing."""


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
        if not has_halves(model):
            return self.backend.session(model, outputs, self.threads, optimize)
        return _Widened(self.backend.session(widen(model), outputs, self.threads, optimize))

    def ran(self, batch: Feeds, part: float = 1.0) -> None:
        """Count a run of a model, or of a part of it, on a batch of calibration data or a piece of one."""
        if self.calibration:
            self.forwards += part * _rows(batch) / sum(map(_rows, self.calibration))

    def observation(self, model: Model) -> Observation:
        """Sizes and values of `model`'s tensors; measured once per model."""
        known = _find(self._seen, model)
        if known is None:
            wide, feeds = (
                (widen(model), list(map(widen_feeds, self.feeds)))
                if has_halves(model)
                else (model, self.feeds)
            )
            watched = derived_tensors(model.graph) & main_tensors(model.graph)
            known = observe(model, self.backend.observer(wide, watched), feeds, watched)
            observe_bodies(wide, known, self.backend.observer, feeds)
            self.seen(model, known)
        return known

    def remember(self, model: Model, feeds: Feeds, values: dict[str, Array]) -> None:
        """Keep what `model` made of `feeds`, until another model has run: what has been run once is not run again.

        Unless it is so large that running it again is better.
        """
        kept = (id(model), id(self.original))
        self._made_of = {key: made for key, made in self._made_of.items() if key[0] in kept}
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


class Claim(Protocol):
    """What a rewrite claims: that masked inputs give equal outputs."""

    def references(self) -> Iterator[tuple[Model, Feeds]]:
        """Masked originals, each with the feeds it holds for."""

    def count(self) -> int:
        """Number of axes that were masked."""

    def kept(self, name: str, array: Array, run: int) -> Array | None:
        """What is left of tensor `name` of reference number `run`; None where the claim says nothing of it."""


@dataclass(frozen=True)
class Unchanged:
    """The claim that a rewrite is exact: the model before it, as it was."""

    model: Model
    feeds: Sequence[Feeds]

    def references(self) -> Iterator[tuple[Model, Feeds]]:
        """The model before, for each input."""
        for feeds in self.feeds:
            yield self.model, feeds

    def count(self) -> int:
        """Nothing is masked."""
        return 0

    def kept(self, name: str, array: Array, run: int) -> Array | None:
        """Nothing is said of inner tensors."""
        return None


@dataclass(frozen=True)
class Outcome:
    """What a pass did.

    Attributes:
        model: the new model.
        entry: what the report says of it.
        claim: what has to be proved, if anything was removed.
    """

    model: Model
    entry: dict[str, Any]
    claim: Claim | None = None


class Pass(Protocol):
    """One verb: a model in, a model and a report entry out."""

    def run(self, model: Model, context: Context) -> Outcome:
        """Do it. Raises PruneoptError where it cannot be done; the input model stays as it is."""


def _options(each: Pass) -> dict[str, Any]:
    return {k: v for k, v in vars(each).items() if v is not None}


def _headed(passes: Sequence[Pass], first: Pass) -> Sequence[Pass]:
    """The passes with `first` in front, unless they begin with one of its kind."""
    return passes if passes and isinstance(passes[0], type(first)) else (first, *passes)


def _aim(before: Model, claim: Claim | None, context: Context) -> Model | None:
    """What repairs aim at behind a pass; an exact one may have changed what tensors mean, and ends it."""
    if claim is None:
        return context.aim
    return (context.aim or before) if claim.count() else None


@dataclass(frozen=True)
class Pipeline:
    """Passes in order; a pass itself. Every claim is proved before the next pass starts."""

    passes: Sequence[Pass]

    def run(self, model: Model, context: Context | None = None, *, calib: Any = None) -> Outcome:
        """Run all; the entry is the list of theirs.

        Without a context, ONNX Runtime is the backend, `calib` is what `pruneopt.prune` takes, and the model
        is simplified first: what is computed from fixed sizes, as a softmax's scale, must not change with them.
        """
        if context is None:
            from pruneopt.api import make_context  # the default runtime is the interface's choice, not ours
            from pruneopt.passes.simplify import Simplify

            context = make_context(model, calib)
            return Pipeline(_headed(self.passes, Simplify())).run(model, context)
        context.original = context.original or model
        entries = []
        for each in self.passes:
            context.progress(type(each).__name__.lower())
            before = context.forwards
            outcome = each.run(model, context)
            entry = {"pass": type(each).__name__.lower(), "options": _options(each), **outcome.entry}
            if outcome.claim is not None:
                context.progress("verify")
                proof = prove(outcome.model, outcome.claim, context)
                entry["equivalence"] = vars(proof)
            if context.forwards > before:
                entry["forwards"] = round(context.forwards - before, 2)
            entries.append(entry)
            if outcome.model is not model:
                context.claim = outcome.claim
                context.aim = _aim(model, outcome.claim, context)
            model = outcome.model
        return Outcome(model, {"passes": entries})
