"""`PYTHON benchmarks/peer_deepsparse.py MODEL.onnx THREADS`: times DeepSparse, a run for each line on stdin.

It lives in an environment of its own, because it wants NumPy 1: `pip install deepsparse==1.8.0 "numpy<2"` there.
Each answer is the seconds of one run, after some that warm up: CPU time of the thread that calls, or of the clock.
"""

from __future__ import annotations

import statistics
import sys
import time

import numpy as np

WARM = 4  # as in benchmarks.kernels
SLEEP, BURST = 0.12, 0.01  # as there


def main(path: str, threads: int) -> None:
    import onnx
    from deepsparse import compile_model  # type: ignore[import-not-found]

    shape = [each.dim_value for each in onnx.load(path).graph.input[0].type.tensor_type.shape.dim]
    engine = compile_model(path, batch_size=shape[0], num_cores=threads)
    inputs = [np.random.default_rng(6).standard_normal(shape).astype(np.float32)]
    clock = time.thread_time if threads == 1 else time.perf_counter
    engine.run(inputs)
    print("ready", flush=True)

    def once() -> float:
        start = clock()
        engine.run(inputs)
        return clock() - start

    for _ in sys.stdin:
        for _ in range(WARM):
            once()
        settled = time.perf_counter() + (SLEEP if threads > 1 else 0)
        while time.perf_counter() < settled:
            once()
        times = [once()]
        while threads > 1 and sum(times) < BURST:
            times.append(once())
        print(statistics.median(times), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
