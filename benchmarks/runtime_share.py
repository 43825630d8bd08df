"""Tells the runtime's own work from pruneopt's: CPU time inside ONNX Runtime's session loads and runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import onnxruntime


@dataclass
class Share:
    """CPU seconds and calls so far."""

    load_cpu: float = 0.0
    run_cpu: float = 0.0
    loads: int = 0
    runs: int = 0

    @property
    def cpu(self) -> float:
        """All of the runtime's CPU seconds."""
        return self.load_cpu + self.run_cpu


@contextmanager
def counted() -> Iterator[Share]:
    """While this is open, every session of ONNX Runtime in this process adds to the share.

    The class itself is replaced, not a backend of pruneopt's, so that making a ModelProto and putting it into
    bytes count as pruneopt's work, as they should.
    """
    share = Share()
    plain = onnxruntime.InferenceSession

    class Counted(plain):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **options: Any) -> None:
            begin = time.process_time()
            super().__init__(*args, **options)
            share.load_cpu += time.process_time() - begin
            share.loads += 1

        def run(self, *args: Any, **options: Any) -> Any:
            return self._count(super().run, args, options)

        def run_with_ort_values(self, *args: Any, **options: Any) -> Any:
            return self._count(super().run_with_ort_values, args, options)

        def _count(self, call: Any, args: Any, options: Any) -> Any:
            begin = time.process_time()
            try:
                return call(*args, **options)
            finally:
                share.run_cpu += time.process_time() - begin
                share.runs += 1

    onnxruntime.InferenceSession = Counted
    try:
        yield share
    finally:
        onnxruntime.InferenceSession = plain
