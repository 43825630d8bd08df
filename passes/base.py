"""What a pass is: a frozen dataclass whose fields are its options, and one verb.

`run(model, context)` returns a new model and a report entry. A pass that removes something also returns
its `Claim`: how the input model, masked, must equal the output. `Pipeline` is a pass; it proves every
claim before the next pass runs, so that a model that fails is never seen by anyone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from pruneopt.analysis.observe import Feeds, Observation, Observer, derived_tensors, observe
from pruneopt.errors import PruneoptError
from pruneopt.frontends.widen import has_halves, widen, widen_feeds
from pruneopt.model import Model

Array = npt.NDArray[Any]
Progress = Callable[[str], None]


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


class Backend(Protocol):
    """What passes need of a runtime; `backends.ort` is the one that ships."""

    def session(self, model: Model, outputs: Sequence[str] | None = None, threads: int = 1, optimize: bool = True) -> Session:
        """Load a model."""

    def observer(self, model: Model, wanted: Collection[str] = ()) -> Observer:
        """Load a model so that the shapes of all and the values of some tensors can be seen."""

    def compare(self, a: Model, b: Model, feeds: Feeds, threads: int = 1) -> tuple[Timing, Timing]:
        """Latency of two models on the same feeds, measured in turns."""


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
    _seen: dict[int, tuple[Model, Observation]] = field(default_factory=dict)

    def session(self, model: Model, outputs: Sequence[str] | None = None, optimize: bool = True) -> Session:
        """Load a model; half precision runs as float32."""
        if not has_halves(model):
            return self.backend.session(model, outputs, self.threads, optimize)
        return _Widened(self.backend.session(widen(model), outputs, self.threads, optimize))

    def observation(self, model: Model) -> Observation:
        """Sizes and values of `model`'s tensors; measured once per model."""
        known = self._seen.get(id(model))
        if known is None:
            wanted = derived_tensors(model.graph)
            wide, feeds = (widen(model), list(map(widen_feeds, self.feeds))) if has_halves(model) else (model, self.feeds)
            known = (model, observe(model, self.backend.observer(wide, wanted), feeds, wanted))
            self._seen[id(model)] = known
        return known[1]

    def same_tensors(self, new: Model, old: Model) -> None:
        """Declare that the tensors of `new` look like those of `old` of the same name."""
        self._seen[id(new)] = (new, self.observation(old))


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


@dataclass(frozen=True)
class Equivalence:
    """How far a rewritten model is from its masked original.

    Attributes:
        max_rel_error: largest difference of an output entry, as a share of the output's largest magnitude.
        atoms_checked: number of axes that were masked.
    """

    max_rel_error: float
    atoms_checked: int


TOLERANCE = 1e-4  # float32 rounding over a deep net stays well below; a wrong rewrite is orders above


def prove(model: Model, claim: Claim, context: Context, tolerance: float = TOLERANCE) -> Equivalence:
    """Run the masked originals and the rewritten model side by side.

    Raises:
        PruneoptError: they differ by more than `tolerance`. This is a bug of a rule, never of the user.
    """
    points = comparison_points(model.graph)
    session = context.session(model, points, optimize=False)
    worst = 0.0
    loaded: tuple[Model, Session] | None = None
    for reference, feeds in claim.references():
        if loaded is None or loaded[0] is not reference:
            loaded = reference, context.session(reference, points, optimize=False)
        expected = loaded[1].run(feeds)
        found = session.run(feeds)
        worst = max(worst, *(distance(expected[name], found[name]) for name in expected), 0.0)
    if not worst <= tolerance:
        raise PruneoptError(
            f"the rewritten model differs from the masked original by {worst:.1e} (at most {tolerance:.0e} is "
            "allowed), so nothing was written; please report this model"
        )
    return Equivalence(worst, claim.count())


SQUASHING = {"Sigmoid", "HardSigmoid", "Softmax", "LogSoftmax", "Tanh", "ArgMax", "ArgMin", "Round", "Cast"}


def comparison_points(graph: gs.Graph) -> list[str]:
    """Names of the tensors to compare: the outputs, or what goes into a squashing op that makes one.

    A saturated sigmoid or an argmax would hide a wrong rewrite, and turn rounding into a flipped bit.
    """
    points = []
    for tensor in graph.outputs:
        while tensor.inputs and tensor.inputs[0].op in SQUASHING and tensor.inputs[0].inputs[0].inputs:
            tensor = tensor.inputs[0].inputs[0]
        points.append(tensor.name)
    return points


def distance(expected: Any, found: Any) -> float:
    """Largest difference as a share of the largest magnitude; of integers, the share that differs."""
    if not isinstance(expected, np.ndarray) or not expected.size:
        return 0.0
    if expected.shape != found.shape:
        return float("inf")
    if expected.dtype.kind not in "fcV":
        return float(np.mean(expected != found))
    a, b = expected.astype(np.float64), found.astype(np.float64)
    finite = np.isfinite(a)
    if not (finite == np.isfinite(b)).all():
        return float("inf")
    difference = np.abs(np.where(finite, a, 0) - np.where(finite, b, 0)).max()
    return float(difference / max(np.abs(a[finite]).max(initial=0), np.finfo(np.float32).tiny))


def _options(each: Pass) -> dict[str, Any]:
    return {k: v for k, v in vars(each).items() if v is not None}


@dataclass(frozen=True)
class Pipeline:
    """Passes in order; a pass itself. Every claim is proved before the next pass starts."""

    passes: tuple[Pass, ...]

    def run(self, model: Model, context: Context) -> Outcome:
        """Run all; the entry is the list of theirs."""
        context.original = context.original or model
        entries = []
        for each in self.passes:
            context.progress(type(each).__name__.lower())
            outcome = each.run(model, context)
            entry = {"pass": type(each).__name__.lower(), "options": _options(each), **outcome.entry}
            if outcome.claim is not None:
                context.progress("verify")
                proof = prove(outcome.model, outcome.claim, context)
                entry["equivalence"] = vars(proof)
            entries.append(entry)
            if outcome.model is not model:
                context.claim = outcome.claim
            model = outcome.model
        return Outcome(model, {"passes": entries})
