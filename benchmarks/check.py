"""`python -m benchmarks.check ORIGINAL PRUNED...`: is each a valid model with the original's signature?

Uses onnx and onnxruntime only, none of pruneopt's code, and prints JSON: the CPU seconds of one forward of
the original at batch 1, the sizes that were run, and for each pruned model its parameters and what is wrong.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from math import prod
from typing import Any

import numpy as np
import onnx
import onnxruntime

from benchmarks.inputs import Feeds, feeds, working_sizes

NOT_WEIGHTS = {onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL, onnx.TensorProto.STRING}


def load(path: str) -> onnxruntime.InferenceSession:
    """A session on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def check(original: str, pruned: list[str]) -> dict[str, Any]:
    """All figures; raises where the original itself cannot be run."""
    session = load(original)
    pair = working_sizes(session)
    batches = [feeds(session, size) for size in pair]
    expected = [session.run(None, batch) for batch in batches]
    forward = _forward_seconds(session, batches[0])
    del session
    found: dict[str, Any] = {"forward": forward, "sizes": pair, "params": parameters(original), "outputs": {}}
    for path in pruned:
        problems = _signature_problems(original, path) or _run_problems(path, batches, expected)
        found["outputs"][path] = {"problems": problems, "params": parameters(path)}
    return found


def _forward_seconds(session: onnxruntime.InferenceSession, batch: Feeds) -> float:
    """Median CPU seconds of five runs."""
    times = []
    for _ in range(5):
        begin = time.process_time()
        session.run(None, batch)
        times.append(time.process_time() - begin)
    return statistics.median(times)


def parameters(path: str) -> int:
    """Elements of all floating-point and quantised constants, those in control-flow bodies included."""
    return _parameters(onnx.load(path, load_external_data=False).graph)


def _parameters(graph: onnx.GraphProto) -> int:
    tensors = list(graph.initializer)
    total = sum(prod(each.values.dims) for each in graph.sparse_initializer)
    for node in graph.node:
        for attribute in node.attribute:
            tensors += (
                [attribute.t]
                if attribute.type == onnx.AttributeProto.TENSOR and node.op_type == "Constant"
                else []
            )
            total += _parameters(attribute.g) if attribute.type == onnx.AttributeProto.GRAPH else 0
    return int(total + sum(prod(t.dims) for t in tensors if t.data_type not in NOT_WEIGHTS))


def _signature_problems(original: str, pruned: str) -> list[str]:
    a, b = (onnx.load(path, load_external_data=False) for path in (original, pruned))
    weights = {each.name for each in a.graph.initializer}
    found = []
    for what in ("input", "output"):
        first, second = ([_end(e) for e in getattr(m.graph, what) if e.name not in weights] for m in (a, b))
        if first != second:
            found.append(f"{what}s differ: {first} became {second}"[:300])
    if {(o.domain, o.version) for o in a.opset_import} - {(o.domain, o.version) for o in b.opset_import}:
        found.append("opset imports differ")
    return found


def _end(entry: onnx.ValueInfoProto) -> tuple[str, int, list[str | int]]:
    kind = entry.type.tensor_type
    return entry.name, kind.elem_type, [d.dim_param or d.dim_value for d in kind.shape.dim]


def _run_problems(path: str, batches: list[Feeds], expected: list[Any]) -> list[str]:
    try:
        session = load(path)
        return [
            p
            for batch, values in zip(batches, expected, strict=True)
            for p in _differences(session.run(None, batch), values)
        ]
    except Exception as error:  # ONNX Runtime raises a dozen unrelated classes
        return ["ONNX Runtime: " + " ".join(str(error).split())[:250]]


def _differences(found: list[Any], expected: list[Any]) -> list[str]:
    problems = []
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        if not isinstance(b, np.ndarray):
            continue
        if a.shape != b.shape or a.dtype != b.dtype:
            problems.append(f"output {i} is {a.dtype}{a.shape}, not {b.dtype}{b.shape}")
        elif b.dtype.kind == "f" and np.isfinite(b).all() and not np.isfinite(a).all():
            problems.append(f"output {i} is not finite")
    return problems


if __name__ == "__main__":
    print(json.dumps(check(sys.argv[1], sys.argv[2:])))
