"""Whole models with sparse kernels against the same weights run dense, in ONNX Runtime.

    python -m benchmarks.sparse_models MODEL.onnx [--size tokens=128] [--density 0.2] [--block 16] [--threads 1]

Zeros go by magnitude into every MatMul, Gemm and Conv that has a weight (accuracy is measured elsewhere), the
result is tuned, and both run in turns: the median ratio of the CPU time of one thread, or of the clock.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from benchmarks.kernels import timed
from pruneopt.model import Model, values
from pruneopt.tune import session_options, tune, typical


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


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--size", nargs="*", default=[], metavar="DIM=N")
    parser.add_argument("--density", type=float, default=0.2)
    parser.add_argument("--block", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--trials", type=int, default=8)
    options = parser.parse_args(arguments)
    import onnxruntime

    from pruneopt.runtime import session

    sizes = {name: int(number) for name, _, number in (each.partition("=") for each in options.size)}
    model = sparsified(Model.load(options.model), options.block, options.density)
    with tempfile.TemporaryDirectory() as folder:
        out, before = Path(folder) / "out.onnx", Path(folder) / "before.onnx"
        report = tune(model, out, threads=options.threads, trials=options.trials, sizes=sizes, tell=print)
        model.save(before)
        feeds = typical(model, sizes)
        sparse = session(out, session_options(options.threads))
        dense = onnxruntime.InferenceSession(str(before), session_options(options.threads))
        runs = {"ours": lambda: sparse.run(None, feeds), "dense": lambda: dense.run(None, feeds)}
        times = timed(runs, options.threads)
        files = out.stat().st_size / before.stat().st_size
    kept = sum(row["kept"] for row in report["kernels"])
    figures = {
        "model": Path(options.model).name,
        "speedup": round(times["dense"] / times["ours"], 3),
        "ms": {name: round(seconds * 1e3, 3) for name, seconds in times.items()},
        "file": round(files, 3),
        "kernels": f"{kept} of {len(report['kernels'])} shapes",
        "error": report["max_rel_error"],
        "tuning_seconds": report["seconds"],
    }
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
