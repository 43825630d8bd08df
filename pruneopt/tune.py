"""`pruneopt tune`: kernels for the sparse weights of a model, and the library that holds them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pruneopt.backends.ort import Observer
from pruneopt.errors import PruneoptError, UsageError
from pruneopt.frontends.dimensions import Feeds, dynamic_dims
from pruneopt.frontends.synthetic import synthetic
from pruneopt.model import Model
from pruneopt.runtime import library_of, session_options

if TYPE_CHECKING:
    from pruneopt.backends.tvm.records import Records
    from pruneopt.backends.tvm.target import Target
    from pruneopt.backends.tvm.tuning import Group

Tell = Callable[[str], None]
DEFAULT_LENGTH = 128
TOLERANCE = 1e-4


def tune(
    model: Model,
    out: str | Path,
    target: str = "host",
    threads: int = 1,
    trials: int = 8,
    sizes: Mapping[str, int] | None = None,
    calib: Sequence[Feeds] = (),
    fallback: bool = False,
    gate: bool = True,
    tracker: str | None = None,
    key: str | None = None,
    cache: str | Path | None = None,
    tell: Tell = lambda text: None,
) -> dict[str, Any]:
    """Writes `out` and `out` with `.kernels.so`: `model` with its sparse weights packed, and their kernels.

    An `out` that ends in `.so` is the whole model as one library for TVM's Relax machine instead, for inputs of that
    one size. `sizes` gives dynamic dimensions of the input to tune for (default: batch 1, others 128), or `calib`
    that input. With a `fallback`, the model runs without the library, too, as fast as a dense one. `tracker`
    (host:port) and `key` name a board on which to measure. Returns a report. Raises PruneoptError where nothing is
    sparse, TVM or a compiler is missing, or the result differs from the dense model's.
    """
    from pruneopt.backends.tvm.records import Records
    from pruneopt.backends.tvm.target import parse

    out = Path(out)
    if out.suffix not in (".onnx", ".so"):
        raise UsageError(
            f"the output '{out}' must end in .onnx, or in .so for a library without ONNX Runtime"
        )
    start = time.perf_counter()
    goal = parse(target)
    feeds = calib[0] if calib else typical(model, sizes or {})
    job = Job(model, out, goal, threads, feeds, tell)
    here = not goal.triple and tracker is None
    with closing(Records(None if cache is None else Path(cache))) as records:
        found, left = job.searched(records, trials, _board(tracker, key, goal))
        kept = found
        if out.suffix == ".onnx":
            job.linked(found, records)
            kept = job.gated(found, records) if gate and here else found
    made = job.written(kept, fallback)
    report = _report(model, made, found, kept, left, time.perf_counter() - start)
    if here:
        report |= job.checked()
    return report | {
        "target": goal.key,
        "threads": threads,
        "library": str(job.library),
        "fallback": fallback,
    }


@dataclass(frozen=True)
class Job:
    """One model on its way to kernels for one target, tuned for the inputs `feeds`."""

    model: Model
    out: Path
    target: Target
    threads: int
    feeds: Feeds
    tell: Tell

    @property
    def library(self) -> Path:
        return library_of(self.out) if self.out.suffix == ".onnx" else self.out

    @cached_property
    def shapes(self) -> Mapping[str, Sequence[int]]:
        """Those of all tensors of the model, by name."""
        return Observer(self.model).run(self.feeds)[0]

    @property
    def runs(self) -> dict[str, list[Sequence[int]]]:
        return {name: [shape] for name, shape in self.shapes.items()}

    def searched(self, records: Records, trials: int, board: Any) -> tuple[list[Group], dict[str, str]]:
        """Kernels for all sparse layers, and why others stay dense. Raises PruneoptError where no layer is sparse."""
        from pruneopt.backends.tvm import tuning

        with board as trial:
            return tuning.tuned(
                self.model, self.runs, self.target, records, trials, self.threads, self.tell, trial
            )

    def linked(self, found: Sequence[Group], records: Records) -> None:
        """Writes the library of all kernels."""
        from pruneopt.backends.tvm import tuning

        self.tell("link")
        chosen = tuning.plans(found, self.target)
        tuning.write_library(chosen, self.target, self.threads, self.library, records.objects)

    def gated(self, found: list[Group], records: Records) -> list[Group]:
        """The kernels that make the whole model faster. Removes the library, and raises, where none does."""
        from pruneopt.backends.tvm import tuning
        from pruneopt.backends.tvm.clock import ratio

        race = partial(ratio, library=self.library, feeds=self.feeds, threads=self.threads)
        where = [self.threads, self.runs]
        kept = tuning.gated(self.model, found, self.target, records, where, race, self.tell)
        if kept:
            return kept
        self.library.unlink()
        raise PruneoptError("every layer is faster dense on this machine: nothing was written; prune further")

    def written(self, kept: Sequence[Group], fallback: bool) -> Model:
        """The model with kernels, in ONNX or as a library of its own, at `out`."""
        from pruneopt.backends.tvm import tuning, whole
        from pruneopt.backends.tvm.rewriting import rewrite

        chosen = tuning.plans(kept, self.target)
        made = rewrite(self.model, chosen, fallback)
        if self.out.suffix == ".onnx":
            made.save(self.out)
        else:
            self.tell("compile the whole model")
            whole.write(made, tuning.unique(chosen), self.shapes, self.target, self.threads, self.out)
        return made

    def checked(self) -> dict[str, Any]:
        """Runs what was written beside the dense model; removes it, and raises PruneoptError, where they differ."""
        try:
            return _compared(self.model, self.out, self.feeds, self.threads)
        except PruneoptError:
            for path in {self.out, self.library}:
                path.unlink()
            raise


def typical(model: Model, sizes: Mapping[str, int]) -> Feeds:
    """Synthetic inputs of the `sizes` given; a first dimension is 1 and others 128 where none is."""
    dims = dynamic_dims(model)
    if unknown := set(sizes) - set(dims):
        raise UsageError(
            f"the model has no dynamic dimension '{min(unknown)}'; it has {', '.join(dims) or 'none'}"
        )
    default = {name: 1 if all(axis == 0 for _, axis in at) else DEFAULT_LENGTH for name, at in dims.items()}
    return synthetic(model, default | dict(sizes))


def _board(tracker: str | None, key: str | None, target: Any) -> Any:
    """How kernels are measured: here, or on a board that a tracker lends."""
    from contextlib import nullcontext

    from pruneopt.backends.tvm.measure import Trial

    if tracker is None:
        if target.triple:
            raise UsageError(f"kernels for {target.triple} are measured on a board: give --tracker and --key")
        return nullcontext(Trial)
    from pruneopt.backends.tvm.remote import board

    if not key:
        raise UsageError("--tracker needs --key, under which the board is registered")
    return board(tracker, key)


def _compared(model: Model, out: Path, feeds: Feeds, threads: int) -> dict[str, Any]:
    """Runs what was written beside the dense model. Raises PruneoptError where they differ."""
    from pruneopt import runtime
    from pruneopt.backends.session import Session

    dense = list(Session(model, threads=threads).run(feeds).values())
    if out.suffix == ".onnx":
        sparse = runtime.session(out, session_options(threads)).run(None, feeds)
    else:
        from pruneopt.backends.tvm.whole import opened

        sparse = opened(out, threads)([feeds[tensor.name] for tensor in model.inputs])
    errors = [_distance(a, b) for a, b in zip(dense, sparse, strict=True) if isinstance(a, np.ndarray)]
    worst = max(errors, default=0.0)
    if not worst <= TOLERANCE:
        raise PruneoptError(
            f"the sparse kernels are wrong: the outputs differ by {worst:.1e}; do not use {out}"
        )
    return {"max_rel_error": worst}


def _distance(a: Any, b: Any) -> float:
    """Largest difference over the largest value."""
    if a.dtype.kind not in "fc":
        return 0.0 if np.array_equal(a, b) else 1.0
    return float(np.abs(a - b).max(initial=0) / max(1e-30, float(np.abs(a).max(initial=0))))


def _report(
    before: Model,
    after: Model,
    found: Sequence[Any],
    kept: Sequence[Any],
    left: Mapping[str, str],
    seconds: float,
) -> dict[str, Any]:
    from pruneopt.analysis.cost import stored_cost

    rows = [
        {
            "layers": [site.node.name or site.y.name for site in group.sites],
            "shape": [group.sites[0].layer.inputs, group.sites[0].layer.outputs],
            "density": round(group.sites[0].density, 3),
            "schedule": group.best.schedule.as_dict(),
            "us": round(group.best.seconds * 1e6, 1),
            "trials": group.best.trials,
            "model_gain": round(group.gain, 3),
            "kept": group in kept,
        }
        for group in found
    ]
    sizes = {"bytes_before": stored_cost(before)[1], "bytes_after": stored_cost(after)[1]}
    return {"kernels": rows, "dense": dict(left), "seconds": round(seconds, 2), **sizes}
