"""The Python interface: load, prune, inspect, compare."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruneopt.errors import UsageError
from pruneopt.figures import report_of
from pruneopt.first_look import make_context as make_context

if TYPE_CHECKING:
    from pruneopt.analysis.explain import Inspection
    from pruneopt.arrays import Feeds
    from pruneopt.model import Model
    from pruneopt.passes.base import Pass
    from pruneopt.passes.context import Context
    from pruneopt.passes.sparsify import Sparsify
    from pruneopt.report import Report, Result

    Batches = str | Iterable[Feeds]


SLOWER = 1.02  # times the input's latency: what is below is noise


def load(path: str | Path) -> Model:
    """Read an ONNX model, its external data mapped, not read, or a `torch.export` archive (.pt2).

    Raises PruneoptError saying what is wrong; files that only unpickling could read are refused.
    """
    from pruneopt.frontends import archive
    from pruneopt.model import Model

    archive.refuse_pickle(path)
    return archive.load_archive(path) if Path(path).suffix == archive.ARCHIVE else Model.load(path)


def to_torch(model: Model, outputs: Sequence[str] | None = None, trainable: Sequence[str] = ()) -> Any:
    """See `Model.to_torch`."""
    from pruneopt.backends.torch import to_torch

    return to_torch(model, outputs, trainable)


def from_torch(
    module: Any, example_inputs: Any = None, *, dynamic_shapes: Any = None, opset: int | None = None
) -> Model:
    """A PyTorch module as a model; one that came from `Model.to_torch` goes back with the weights that it has now.

    Args:
        module: any `torch.nn.Module` that `torch.export` takes, an `ExportedProgram`, or what `to_torch` made.
        example_inputs: a tuple of arguments or a dict of keyword arguments; not needed for the last two.
        dynamic_shapes: which dimensions vary, as `torch.export.export` wants it.
        opset: the operator set to export for; the exporter's own by default.

    Raises:
        UsageError: example inputs are missing.
        PruneoptError: PyTorch is not installed, or the module cannot be exported.
    """
    from pruneopt.backends.torch import from_graph_module, is_ours

    if example_inputs is None and is_ours(module):
        return from_graph_module(module)
    from pruneopt.frontends.fx import from_module

    return from_module(module, example_inputs, dynamic_shapes, opset)


def prune(
    model: Model,
    *,
    macs: float | None = None,
    params: float | None = None,
    bytes: float | None = None,
    latency: float | None = None,
    memory: float | None = None,
    axes: str | None = None,
    tolerance: float | None = None,
    sparsity: float | None = None,
    pattern: str | None = None,
    target: str | None = None,
    passes: str | Sequence[Pass] | None = None,
    calib: Batches | None = None,
    labels: Sequence[str] = (),
    keep: Sequence[str] = (),
    threads: int = 1,
    seed: int = 0,
    timed: bool | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Result:
    """Remove what a budget asks for, and prove that the rewrite is right.

    Args:
        model: stays as it is.
        macs: share of the multiply-accumulates to keep at most, in (0, 1]; all budgets given hold.
        params: share of the parameters.
        bytes: share of the weights' bytes.
        latency: share of the latency that the runtime has with `threads` threads, measured in turns.
        memory: share of the peak of live activation bytes.
        axes: what budgets or tolerance are spent on, of `depth`, `length`, `width` joined by `+`; `width` by default.
        tolerance: without a budget: largest relative L2 distance of the outputs, 0.01 by default.
        sparsity: share of the weights left that become zero.
        pattern: where zeros may stand, `unstructured` by default (see `passes.sparsity.patterns`).
        target: what `pruneopt.tune` will make kernels for; with a pattern and no sparsity, the latency is that with
            these kernels, and is spent on zeros.
        passes: passes to run instead, as objects or as text such as `width{ratio=0.5}`.
        calib: batches of real inputs, or where to find them (`file.npz`, a folder, `module:function`).
        labels: names of arrays that these files hold beside the inputs, for losses; a batch may hold any.
        keep: glob patterns of tensors or nodes that must not change.
        threads: threads of the runtime.
        seed: seed of everything random.
        timed: also measure the latency of both models, in turns; by default where weights are below 1 GB.
        progress: told what happens, a line at a time.

    Raises:
        UsageError: an option makes no sense.
        PruneoptError: the model cannot be run, or the budget not be met.
    """
    from pruneopt.passes.pipeline import Pipeline
    from pruneopt.passes.simplify import Simplify
    from pruneopt.passes.spec import parse_passes
    from pruneopt.passes.verify import Verify
    from pruneopt.report import Result

    begin = time.perf_counter()
    given = parse_passes(passes) if isinstance(passes, str) else passes
    zeros = _zeros(sparsity, pattern, latency, target)
    if zeros and zeros[0].latency is not None:
        latency = None
    shares = {"macs": macs, "params": params, "bytes": bytes, "latency": latency, "memory": memory}
    budgets: dict[str, Any] = {name: share for name, share in shares.items() if share is not None}
    if zeros and not budgets and tolerance is None and given is None:
        given = ()
    chosen = (*_passes(budgets, axes, tolerance, given), *zeros)
    context = make_context(model, calib, keep, threads, seed, progress, labels)
    free = passes is None and not budgets  # then all that is free goes
    outcome = Pipeline((Simplify(idle=free), *chosen)).run(model, context)
    context.forget(outcome.model)
    checked = Pipeline((Verify(),)).run(outcome.model, context)
    report = report_of(
        model, outcome.model, context, outcome.entry["passes"] + checked.entry["passes"], timed
    )
    if free and not zeros and _is_slower(model, outcome.model, context, report):
        why = f"the smaller model takes {report['latency_ratio']:.2f} times as long, so the input was kept"
        outcome = Pipeline((Verify(),)).run(model, context)
        report = report_of(model, model, context, outcome.entry["passes"], False) | {"kept_input": why}
    report |= {"threads": threads, "seconds": time.perf_counter() - begin, "version": version("pruneopt")}
    small = _bare(outcome.model, context)
    return Result(small, report | ({"name": model.path.name} if model.path else {}))


def _bare(model: Model, context: Context) -> Model:
    """With smaller inputs, where a pass was allowed to change them; all before that is measured on the same inputs."""
    if not context.smaller:
        return model
    from pruneopt.passes.length.extent.bare import bare

    return bare(model, context)


def _is_slower(before: Model, after: Model, context: Context, report: Report) -> bool:
    """Whether a model is slower beyond noise: two measurements in turns say so, the second a longer one."""
    if after is before or report.get("latency_ratio", 0.0) <= SLOWER:
        return False
    again = context.backend.compare(before, after, context.feeds[-1], context.threads, seconds=4.0)
    return again[1].ratio_to_first > SLOWER


def _passes(
    budgets: Mapping[str, Any], axes: str | None, tolerance: float | None, passes: Sequence[Pass] | None
) -> Sequence[Pass]:
    from pruneopt.passes.joint import Joint
    from pruneopt.passes.repair import Repair
    from pruneopt.passes.tolerance import Tolerance
    from pruneopt.passes.width import Width

    if sum((bool(budgets), tolerance is not None, passes is not None)) > 1:
        raise UsageError("give budgets, a tolerance or passes, not several of them")
    if axes is not None and passes is not None:
        raise UsageError("axes say what a budget or a tolerance is spent on; passes have their own")
    if passes is not None:
        return passes
    if budgets:
        return (Width(**budgets), Repair()) if axes in (None, "width") else (Joint(**budgets, axes=axes),)
    return (Tolerance(0.01 if tolerance is None else tolerance, axes or "width"), Repair())


def _zeros(
    sparsity: float | None, pattern: str | None, latency: float | None, target: str | None
) -> Sequence[Sparsify]:
    """The pass that makes weights sparse, where that is asked for."""
    if sparsity is None and pattern is None:
        return ()
    from pruneopt.passes.sparsify import Sparsify

    if sparsity is None and latency is not None and target is not None:
        return (Sparsify(pattern=pattern or "unstructured", latency=latency, target=target),)
    return (Sparsify(sparsity, pattern or "unstructured"),)


def inspect(model: Model, keep: Sequence[str] = ()) -> Inspection:
    """What can be removed from a model, and why the rest cannot."""
    from pruneopt.analysis.explain import inspect_analysis
    from pruneopt.analysis.infer import analyse
    from pruneopt.passes.simplify import Simplify

    context = make_context(model, keep=keep)
    simple = Simplify().run(model, context).model
    return inspect_analysis(analyse(simple, context.observation(simple), tuple(keep)))


def compare(a: Model, b: Model, *, calib: Batches | None = None, threads: int = 1, seed: int = 0) -> Report:
    """Size, cost, latency in turns, and distance of the outputs of two models with the same signature."""
    from pruneopt.passes.verify import check_signature, fidelity

    check_signature(a, b)
    context = make_context(a, calib, threads=threads, seed=seed)
    report = report_of(a, b, context, [], timed=True)
    batches = list(context.calibration) or list(context.feeds)
    return report | {"fidelity": fidelity(context, a, b, batches), "calibrated": bool(context.calibration)}
