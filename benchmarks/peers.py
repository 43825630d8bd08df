"""The same models through Torch-Pruning and onnxsim, which live in an environment of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

Record = dict[str, Any]


def measure_peers(path: Path, python: str, limit: float, record: Record) -> None:
    """Adds what each peer does with the model to `record["peers"]`, unless it is known already."""
