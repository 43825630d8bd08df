"""The same models through Torch-Pruning and onnxsim, which live in an environment of their own.

`pip install onnxsim torch-pruning timm onnxruntime` there; a peer that is missing says so as its status.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.isolated import run

Record = dict[str, Any]

PEERS = {"onnxsim": "benchmarks.peer_onnxsim", "torch-pruning": "benchmarks.peer_torch_pruning"}
ROOT = Path(__file__).resolve().parents[1]


def measure_peers(path: Path, python: str, limit: float, record: Record) -> None:
    """Adds what each peer does with the model to `record["peers"]`, unless it is known already."""
    known = record.setdefault("peers", {})
    for peer, module in PEERS.items():
        if peer not in known:
            known[peer] = _measure(module, path, python, limit)


def _measure(module: str, path: Path, python: str, limit: float) -> Record:
    one_thread = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ran = run([python, "-m", module, str(path)], limit, one_thread)
    figures: Record = {"code": ran.code, "seconds": ran.seconds, "cpu": ran.cpu, "peak_mb": ran.peak_mb}
    if ran.code == 0:
        found: Record = json.loads(ran.out.strip().splitlines()[-1])
        return figures | found
    said = (
        "time limit"
        if ran.code is None
        else ran.err.strip().splitlines()[-1][:200]
        if ran.err.strip()
        else ""
    )
    return figures | {"status": said or f"exit {ran.code}"}
