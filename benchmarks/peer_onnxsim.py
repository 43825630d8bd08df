"""`PYTHON -m benchmarks.peer_onnxsim MODEL`: onnxsim's structured pruning at half the width, as JSON.

Simplified first, then channels of convolutions and matrix products, then whole attention heads: all that
onnxsim removes without being told about the model.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import onnx
import onnxsim  # type: ignore[import-not-found]

from benchmarks.check import check


def measure(path: str) -> dict[str, Any]:
    """Share of the parameters kept, and whether the result is a valid model."""
    model = onnx.load(path)
    simple, _ = onnxsim.simplify(model)
    small = onnxsim.apply_structured_pruning(simple, sparsity=0.5)
    small = onnxsim.apply_attention_head_pruning(small, sparsity=0.5)
    with tempfile.TemporaryDirectory() as folder:
        target = str(Path(folder) / "small.onnx")
        onnx.save(small, target)
        found = check(path, [target])
    made = found["outputs"][target]
    status = "; ".join(made["problems"])[:200] or "ok"
    return {"status": status, "params_kept": made["params"] / found["params"]}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1])))
