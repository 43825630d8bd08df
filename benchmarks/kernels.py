"""Sparse kernels against ONNX Runtime, PyTorch's and SciPy's CSR, and the roofline.

    python -m benchmarks.kernels [--threads 1] [--trials 8] [--only "MatMul 384x384"] [--density 0.2 0.1]
                                 [--deepsparse PYTHON]

Each row is one shape at one sparsity: times are medians of runs in turns, of the CPU time of one thread, or of the
clock for more threads. The roofline is the time of the non-zeros' multiplications at the rate of a dense product
that fits into the first cache. Peers that are not installed are left out; DeepSparse runs in the environment of the
PYTHON that is named (`benchmarks/peer_deepsparse.py`). `--json FILE` appends one line for each row.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from onnx import helper, numpy_helper

from benchmarks.undisturbed import while_undisturbed
from pruneopt.backends.cores import cores
from pruneopt.backends.turns import steady
from pruneopt.model import Model
from pruneopt.runtime import session_options
from pruneopt.tune import tune

# name -> (inputs, outputs, rows), or (channels, outputs, side, kernel)
ROWS = {
    "MatMul 384x384, M=128": (384, 384, 128),
    "MatMul 768x768, M=384": (768, 768, 384),
    "MatMul 768x3072, M=128": (768, 3072, 128),
    "MatMul 768x3072, M=1": (768, 3072, 1),
}
IMAGES = {
    "1x1 conv 64-256, 56x56": (64, 256, 56, 1),
    "1x1 conv 512-128, 28x28": (512, 128, 28, 1),
    "3x3 conv 64-64, 56x56": (64, 64, 56, 3),
    "3x3 conv 256-256, 14x14": (256, 256, 14, 3),
}
ROUNDS, FEWER = 21, 9  # the latter of several threads, and of several runs each
WARM = 4  # runs before one that is timed, of DeepSparse, too
SLEEP = 0.12  # seconds until the threads of who ran before have gone to sleep
Run = Callable[[], Any]
Clocked = Callable[[], float]


def zeros(shape: tuple[int, ...], block: int, density: float) -> Any:
    """A float32 weight [outputs, ...] of which blocks of outputs share their zeros."""
    rng = np.random.default_rng(5)
    kept = rng.random((shape[0] // block, *shape[1:])) < density
    return np.asarray(rng.standard_normal(shape) * np.repeat(kept, block, 0), np.float32)


def layer(name: str, block: int, density: float) -> tuple[Model, Any, Any]:
    """One layer as a model, its input, and its weight [outputs, inputs]."""
    if name in ROWS:
        inputs, outputs, n = ROWS[name]
        weight = zeros((outputs, inputs), block, density)
        node, shape = helper.make_node("MatMul", ["x", "w"], ["y"]), [n, inputs]
        stored = np.ascontiguousarray(weight.T)
    else:
        channels, outputs, side, kernel = IMAGES[name]
        stored = zeros((outputs, channels, kernel, kernel), block, density)
        weight = stored.reshape(outputs, -1)
        node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[kernel // 2] * 4)
        shape = [1, channels, side, side]
    ends = [helper.make_tensor_value_info("x", 1, shape), helper.make_tensor_value_info("y", 1, None)]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [numpy_helper.from_array(stored, "w")])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    x = np.random.default_rng(6).standard_normal(shape).astype(np.float32)
    return Model.from_proto(proto), x, weight


def bound(opened: Any, x: Any) -> Run:
    """A run whose result goes where the one before went, as between the layers of a model."""
    from onnxruntime import OrtValue

    binding = opened.io_binding()
    binding.bind_ortvalue_input("x", OrtValue.ortvalue_from_numpy(x))
    binding.bind_ortvalue_output("y", OrtValue.ortvalue_from_numpy(opened.run(None, {"x": x})[0]))
    return lambda: opened.run_with_iobinding(binding)


def dense(model: Model, x: Any, threads: int) -> Run:
    import onnxruntime

    data = model.proto().SerializeToString()
    opened = onnxruntime.InferenceSession(data, session_options(threads), providers=["CPUExecutionProvider"])
    return bound(opened, x)


def ours(model: Model, x: Any, threads: int, trials: int) -> tuple[dict[str, Run], float]:
    """The layer with a tuned kernel, and how large the file has become against before."""
    from pruneopt.runtime import session

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.onnx"
        report = tune(model, out, threads=threads, trials=trials, gate=False)
        opened = session(out, session_options(threads))
    runs: dict[str, Run] = {"ours": bound(opened, x), "ours, new result": lambda: opened.run(None, {"x": x})}
    return runs, report["bytes_after"] / report["bytes_before"]


def peers(x: Any, weight: Any, threads: int) -> dict[str, Run]:
    """CSR products of PyTorch and SciPy, for rows: weight [outputs, inputs] by x' [inputs, rows]."""
    found: dict[str, Run] = {}
    if x.ndim != 2:
        return found
    turned = np.ascontiguousarray(x.T)
    try:
        import torch
    except ImportError:
        pass
    else:
        torch.set_num_threads(threads)
        csr, right = torch.from_numpy(weight).to_sparse_csr(), torch.from_numpy(turned)
        found["torch"] = lambda: csr @ right
    try:
        from scipy.sparse import csr_matrix
    except ImportError:
        return found
    matrix = csr_matrix(weight)
    return found | {"scipy": lambda: matrix @ turned}


@contextmanager
def deepsparse(python: str | None, model: Model, threads: int) -> Iterator[dict[str, Clocked]]:
    """DeepSparse in another process, which is told when to run; nothing where no `python` is given."""
    if python is None:
        yield {}
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "layer.onnx"
        model.save(path)
        command = [python, str(Path(__file__).with_name("peer_deepsparse.py")), str(path), str(threads)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(command, text=True, **pipes) as worker:  # type: ignore[call-overload]

            def ask() -> float:
                worker.stdin.write("\n")
                worker.stdin.flush()
                return float(worker.stdout.readline())

            while (line := worker.stdout.readline()) and line != "ready\n":
                pass
            yield {"deepsparse": ask} if line else {}
            worker.terminate()


def clocked(run: Run, threads: int) -> Clocked:
    """Seconds of a run, after some that have brought weights and results into the caches.

    One is not enough: what is new in a cache of the last level is what is thrown out first.
    """
    clock = time.thread_time if threads == 1 else time.perf_counter
    own = cores(threads) if threads > 1 else []

    def seconds() -> float:
        for _ in range(WARM):
            run()
        return steady(run, clock, own, SLEEP)

    return seconds


def timed(
    runs: dict[str, Run], threads: int, others: Mapping[str, Clocked] | None = None
) -> dict[str, float]:
    """Median seconds of each, in turns; `others` take their time themselves.

    Several threads are timed while their processors are undisturbed, as far as they come to be so.
    """
    own = cores(threads) if threads > 1 else []
    clocks = {name: clocked(run, threads) for name, run in runs.items()} | dict(others or {})
    spent: dict[str, list[float]] = {name: [] for name in clocks}
    for clock in clocks.values():
        clock()
    for _ in range(ROUNDS if threads == 1 else FEWER):
        for name, clock in clocks.items():
            spent[name].append(while_undisturbed(clock, own))
    return {name: statistics.median(times) for name, times in spent.items()}


def peak() -> float:
    """Multiply-adds a second of one thread, of a product that stays in cache."""
    a = np.random.default_rng(0).standard_normal((192, 192)).astype(np.float32)
    times = []
    for _ in range(200):
        start = time.thread_time()
        a @ a
        times.append(time.thread_time() - start)
    return float(192**3 / min(times))


def row(name: str, block: int, density: float, options: argparse.Namespace, rate: float) -> dict[str, Any]:
    """Everything about one shape at one sparsity; `rate` is the multiply-adds a second of one thread."""
    model, x, weight = layer(name, block, density)
    own, size = ours(model, x, options.threads, options.trials)
    runs = own | {"dense": dense(model, x, options.threads)} | peers(x, weight, options.threads)
    with deepsparse(options.deepsparse, model, options.threads) as others:
        times = timed(runs, options.threads, others)
    positions = len(x) if x.ndim == 2 else x.shape[2] * x.shape[3]
    roof = np.count_nonzero(weight) * positions / (rate * options.threads) / times["ours"]
    us = {peer: round(seconds * 1e6, 1) for peer, seconds in times.items()}
    case = {"shape": name, "block": block, "density": density, "threads": options.threads}
    return case | {"us": us, "roof": round(roof, 3), "file": round(size, 3)}


def gain(us: Mapping[str, float], peer: str) -> float:
    """How much faster we are than a peer; all but ONNX Runtime make a new array for each result."""
    return us[peer] / us["ours" if peer == "dense" else "ours, new result"]


def text(row: dict[str, Any]) -> str:
    """One line of the table: times faster than each peer."""
    us = row["us"]
    ratios = [
        f"{gain(us, peer):.2f}x" if peer in us else "-" for peer in ("dense", "torch", "scipy", "deepsparse")
    ]
    case = [row["shape"], f"{row['block']}x1", f"{1 - row['density']:.0%}", f"{us['ours']:.0f}"]
    return " | ".join([*case, *ratios, f"{row['roof']:.2f}", f"{row['file']:.2f}"])


def means(rows: Sequence[dict[str, Any]], peer: str) -> Iterator[str]:
    """Geometric means over the shapes of how much faster we are than a peer."""
    for block, density in dict.fromkeys((row["block"], row["density"]) for row in rows):
        gains = [
            gain(row["us"], peer)
            for row in rows
            if (row["block"], row["density"]) == (block, density) and peer in row["us"]
        ]
        if gains:
            mean = float(np.exp(np.mean(np.log(gains))))
            yield f"geometric mean over {peer}, {block}x1 at {1 - density:.0%}: {mean:.2f}x, {len(gains)} shapes"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--only", default="")
    parser.add_argument("--block", type=int, nargs="*", default=[1, 16])
    parser.add_argument("--density", type=float, nargs="*", default=[0.5, 0.3, 0.2, 0.1, 0.05])
    parser.add_argument("--deepsparse", metavar="PYTHON")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args(arguments)
    rate = peak()
    rows: list[dict[str, Any]] = []
    print(
        "shape | block | zeros | ours us | ONNX Runtime | torch CSR | scipy CSR | DeepSparse | of roofline | file"
    )
    for name in [name for name in [*ROWS, *IMAGES] if options.only in name]:
        for block in options.block:
            for density in options.density:
                rows.append(row(name, block, density, options, rate))
                print(text(rows[-1]), flush=True)
                if options.json:
                    with open(options.json, "a") as file:
                        file.write(json.dumps(rows[-1]) + "\n")
    for peer in ("dense", "deepsparse"):
        print("\n".join(means(rows, peer)))


if __name__ == "__main__":
    main()
