"""Runs a model for the first time: inputs of two sizes that work, and what is seen inside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pruneopt.analysis.observe import Observer, Run
    from pruneopt.api import Batches
    from pruneopt.arrays import Feeds
    from pruneopt.model import Model
    from pruneopt.passes.context import Context


def make_context(
    model: Model,
    calib: Batches | None = None,
    keep: Sequence[str] = (),
    threads: int = 1,
    seed: int = 0,
    progress: Callable[[str], None] = lambda text: None,
    labels: Sequence[str] = (),
) -> Context:
    """What passes need to run on `model`: the ONNX Runtime backend, and inputs of two sizes that work."""
    from pruneopt.analysis.observe import derived_tensors, observation, observe_bodies
    from pruneopt.backends.ort import OnnxRuntime
    from pruneopt.errors import PruneoptError
    from pruneopt.frontends.calibration import load_calibration
    from pruneopt.frontends.sizes import given_feeds, working_feeds
    from pruneopt.frontends.widen import widen, widen_feeds
    from pruneopt.model import makers
    from pruneopt.passes.context import Context
    from pruneopt.passes.proof import comparison_points
    from pruneopt.passes.statistics.stream import portions

    progress("load")
    batches = load_calibration(calib, model, labels) if isinstance(calib, str) else list(calib or ())
    backend, made, runnable = OnnxRuntime(), set(makers(model.graph)), widen(model)
    derived = derived_tensors(model.graph) & made
    points = made & {*comparison_points(model.graph), *(t.name for t in model.outputs)}
    trial = _Trial(model, backend.observer(runnable, derived | points))
    try:
        feeds = working_feeds(model, trial.works, seed, trial.hides)
    except PruneoptError:
        if not batches:
            raise
        feeds = given_feeds(model, dict(batches[0]), trial.works)
    seen = observation(model, [trial.runs[id(batch)] for batch in feeds], feeds, derived)
    observe_bodies(runnable, seen, backend.observer, list(map(widen_feeds, feeds)))
    batches = portions(batches, model, seen)
    context = Context(backend, feeds, batches, tuple(keep), seed, threads, progress, original=model)
    context.seen(model, seen)
    for batch in feeds:
        values = trial.runs[id(batch)][1]
        context.remember(model, batch, {name: values[name] for name in points & values.keys()})
    return context


class _Trial:
    """Tries feeds on a model and remembers what was observed: the runs that work need not be repeated."""

    def __init__(self, model: Model, observer: Observer) -> None:
        self.outputs = [t.name for t in model.outputs]
        self.observer = observer
        self.runs: dict[int, Run] = {}

    def works(self, feeds: Feeds) -> bool:
        """Whether the model runs and no output is empty."""
        from pruneopt.frontends.widen import widen_feeds

        shapes, _ = self.runs[id(feeds)] = self.observer.run(widen_feeds(feeds))
        return all(0 not in shapes.get(name, ()) for name in self.outputs)

    def hides(self, *feeds: Feeds) -> bool:
        """Whether the first two runs agree on a size that is another in the third."""
        small, large, third = (self.runs[id(batch)][0] for batch in feeds)
        shapes = zip(small.values(), large.values(), third.values(), strict=True)
        return any(a == b != c for each in shapes for a, b, c in zip(*each, strict=False))
