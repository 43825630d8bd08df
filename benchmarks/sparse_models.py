"""Whole models with sparse kernels against the same weights run dense, in ONNX Runtime.

    python -m benchmarks.sparse_models [NAME ...] [--block 16 1] [--threads 1 2]      (default: all that have a name)
    python -m benchmarks.sparse_models MODEL.onnx --size tokens=128 --density 0.2 --block 16 1

Networks with names are those of `benchmarks.accuracy`, and `resnet50` of timm with random weights; they are exported
once. Zeros go by magnitude into every MatMul, Gemm and Conv that has a weight (accuracy is measured elsewhere), the
result is tuned and runs in turns with the file as it was given (`dense`), and as pruneopt writes it with nothing
changed but the zeros (`zeros`: without the shapes that a file may note, ONNX Runtime fuses other nodes). `--untie`
makes classifiers that are embedding tables sparse, too. Times are medians, of the CPU time of one thread or of the
clock. One object of figures for each block and number of threads: `bound` is the speed-up over `dense` if the
kernels took no time at all, after a profile of what else runs; `packed` is what they read but for inputs, as a share
of the weights before.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from benchmarks.kernels import timed
from pruneopt.frontends.dimensions import Feeds
from pruneopt.model import Model, values
from pruneopt.passes.pipeline import Pipeline
from pruneopt.passes.untie import Untie
from pruneopt.runtime import session_options
from pruneopt.tune import tune, typical

PROFILED = 10  # runs
CACHE = Path.home() / ".cache/pruneopt/benchmarks"


@dataclass(frozen=True)
class Case:
    """A network, the sizes that it runs at, and its zeros."""

    sizes: dict[str, int]
    density: float = 0.2
    blocks: tuple[int, ...] = (16,)


CASES = {
    "minilm": Case({"tokens": 128}, blocks=(16, 1)),
    "efficientnet": Case({}),
    "resnet50": Case({}),
    "smollm2": Case({"tokens": 1}, density=0.5),
}


def exported(name: str) -> Path:
    """The file of a network with a name, made where it is not there."""
    path = CACHE / f"{name}.onnx"
    if path.exists():
        return path
    if name != "resnet50":
        import_module(f"benchmarks.accuracy.{name}").task(CACHE)
        return path
    from benchmarks.accuracy.exported import export_batched
    from benchmarks.torchvision_ops import declare

    declare()
    import timm  # type: ignore[import-not-found]

    export_batched(timm.create_model("resnet50").eval(), (3, 224, 224), path, "image", "logits")
    return path


def sparsified(model: Model, block: int, density: float) -> Model:
    """A copy whose weights keep that share of their blocks of outputs, the largest ones."""
    new = model.copy()
    for node in new.graph.nodes:
        weight = node.inputs[1] if len(node.inputs) > 1 else None
        if node.op not in ("MatMul", "Gemm", "Conv") or not isinstance(weight, gs.Constant):
            continue
        array = np.asarray(values(weight))
        if array.dtype == np.float32 and array.ndim in (2, 4) and (array.ndim == 2 or array.shape[1] > 1):
            turned = node.op == "MatMul" or (node.op == "Gemm" and not node.attrs.get("transB", 0))
            kept = _kept(array.T if turned else array, block, density)
            node.inputs[1] = gs.Constant(weight.name, np.ascontiguousarray(kept.T if turned else kept))
    return new


def _kept(weight: Any, block: int, density: float) -> Any:
    """`weight` [outputs, ...] without its smallest blocks."""
    matrix = weight.reshape(len(weight), -1)
    blocks = -(-len(matrix) // block)
    padded = np.zeros((blocks * block, matrix.shape[1]), np.float32)
    padded[: len(matrix)] = matrix
    size = np.abs(padded).reshape(blocks, block, -1).sum(axis=1)
    mask = np.repeat(size > np.quantile(size, 1 - density), block, 0)[: len(matrix)]
    return (matrix * mask).reshape(weight.shape).astype(np.float32)


def profiled(out: Path, feeds: Feeds, threads: int, folder: Path) -> dict[str, float]:
    """Share of the time of each kind of op, kernels together as `sparse`, over some runs."""
    from pruneopt.runtime import session

    options = session_options(threads)
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    opened = session(out, options)
    for _ in range(PROFILED):
        opened.run(None, feeds)
    spent: Counter[str] = Counter()
    for event in json.loads(Path(opened.end_profiling()).read_text()):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            name = event["args"]["op_name"]
            spent["sparse" if name.startswith("sparse_") else name] += event["dur"]
    total = sum(spent.values())
    return {name: round(duration / total, 3) for name, duration in spent.most_common(8)}


def measured(given: Path, model: Model, sizes: dict[str, int], threads: int, trials: int) -> dict[str, Any]:
    """Tunes `model`, the file `given` with zeros, and runs it with its kernels and both dense, in turns."""
    import onnxruntime

    from pruneopt.runtime import session

    with tempfile.TemporaryDirectory() as folder:
        out, before = Path(folder) / "out.onnx", Path(folder) / "before.onnx"
        report = tune(model, out, threads=threads, trials=trials, sizes=sizes)
        model.save(before)
        feeds = typical(model, sizes)
        sparse = session(out, session_options(threads))
        dense, zeros = (
            onnxruntime.InferenceSession(str(path), session_options(threads)) for path in (given, before)
        )
        runs = {"ours": lambda: sparse.run(None, feeds), "dense": lambda: dense.run(None, feeds)}
        runs["zeros"] = lambda: zeros.run(None, feeds)
        times = timed(runs, threads)
        files, weights = out.stat().st_size / before.stat().st_size, packed(before, out)
        shares = profiled(out, feeds, threads, Path(folder))
    kept = sum(row["kept"] for row in report["kernels"])
    speedup = times["dense"] / times["ours"]
    return {
        "speedup": round(speedup, 3),
        "over_zeros": round(times["zeros"] / times["ours"], 3),
        "bound": round(speedup / max(1e-9, 1 - shares.get("sparse", 0.0)), 2),
        "ms": {name: round(seconds * 1e3, 3) for name, seconds in times.items()},
        "shares": shares,
        "file": round(files, 3),
        "packed": round(weights, 3),
        "kernels": f"{kept} of {len(report['kernels'])} shapes",
        "error": report["max_rel_error"],
        "tuning_seconds": report["seconds"],
    }


def packed(before: Path, out: Path) -> float:
    """Bytes of all that kernels read but x, as a share of the weights and biases that it replaces."""
    was, now = (
        {
            t.name: np.prod(t.dims) * onnx.numpy_helper.to_array(t).itemsize
            for t in onnx.load(path).graph.initializer
        }
        for path in (before, out)
    )
    return float(sum(now[name] for name in now.keys() - was) / sum(was[name] for name in was.keys() - now))


def without_onnxruntime(model: Model, sizes: dict[str, int], threads: int, trials: int) -> dict[str, float]:
    """Milliseconds of the whole model as a Relax library, and of ONNX Runtime with kernels, in turns."""
    from pruneopt.backends.tvm.whole import opened
    from pruneopt.runtime import session

    feeds = typical(model, sizes)
    with tempfile.TemporaryDirectory() as folder:
        whole, out = Path(folder) / "whole.so", Path(folder) / "out.onnx"
        for path in (whole, out):
            tune(model, path, threads=threads, trials=trials, sizes=sizes, gate=False)
        run, other = opened(whole, threads), session(out, session_options(threads))
        inputs = [feeds[tensor.name] for tensor in model.inputs]
        runs = {"relax": lambda: run(inputs), "onnxruntime": lambda: other.run(None, feeds)}
        return {name: round(seconds * 1e3, 3) for name, seconds in timed(runs, threads).items()}


def rows(name: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The figures of one network or file."""
    case = CASES.get(name, Case({}))
    path = exported(name) if name in CASES else Path(name)
    given = {dim: int(number) for dim, _, number in (each.partition("=") for each in options.size)}
    density, sizes = options.density or case.density, given or case.sizes
    loaded = Model.load(path)
    if options.untie:
        loaded = Pipeline((Untie(),)).run(loaded).model
    for block in options.block or case.blocks:
        model = sparsified(loaded, block, density)
        for threads in options.threads:
            figures = measured(path, model, sizes, threads, options.trials)
            if options.whole:
                figures["whole"] = without_onnxruntime(model, sizes, threads, options.trials)
            zeros = {"block": block, "zeros": 1 - density, "untied": options.untie}
            yield {"model": path.stem, "threads": threads} | zeros | figures


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="*", default=list(CASES), help="a name, or a file")
    parser.add_argument("--size", nargs="*", default=[], metavar="DIM=N")
    parser.add_argument("--density", type=float, default=0.0, help="share of the weights that are not zero")
    parser.add_argument("--block", type=int, nargs="*", default=[])
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--untie", action="store_true", help="a weight for each product that shares one")
    parser.add_argument("--whole", action="store_true", help="also as a library without ONNX Runtime")
    options = parser.parse_args(arguments)
    for name in options.model:
        for row in rows(name, options):
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
