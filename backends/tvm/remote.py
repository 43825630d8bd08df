"""Measures kernels on another machine, lent by TVM's RPC tracker.

On the board: `python -m tvm.exec.rpc_server --tracker HOST:PORT --key KEY`. Kernels are compiled and linked here,
uploaded, and timed there by TVM's own evaluator.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pruneopt.backends.tvm.compiler import Plan, compiled
from pruneopt.backends.tvm.library import export
from pruneopt.backends.tvm.measure import Work, arguments, shares
from pruneopt.backends.tvm.target import Target
from pruneopt.errors import PruneoptError, UsageError

SESSION = 600  # seconds after which the board gives up on us


@contextmanager
def board(tracker: str, key: str) -> Iterator[Callable[[Plan, Target, Work], Remote]]:
    """A board of that `key`; what is yielded makes trials on it. Raises PruneoptError where none can be had."""
    from tvm import rpc

    host, colon, port = tracker.rpartition(":")
    if not colon or not port.isdigit():
        raise UsageError(f"the tracker '{tracker}' is not of the form host:port")
    try:
        session = rpc.connect_tracker(host, int(port)).request(key, priority=1, session_timeout=SESSION)
    except Exception as error:  # TVM raises its own classes for each of the ways this can fail
        why = " ".join(str(error).split())[:200]
        raise PruneoptError(f"the tracker {tracker} lends no board '{key}': {why}") from error
    with tempfile.TemporaryDirectory() as folder:
        yield lambda plan, target, work: Remote(session, Path(folder), plan, target, work)


class Remote:
    """A trial on a board: like `measure.Trial`."""

    def __init__(self, session: Any, folder: Path, plan: Plan, target: Target, work: Work) -> None:
        name = f"{plan.name}.so"
        export(compiled([plan], target, tensors=True), folder / name, target)
        session.upload(str(folder / name))
        self.device = session.cpu(0)
        self.module = session.load_module(name)
        self.name, self.n = plan.name, work.n
        self.shares = shares(plan, work.n, work.threads)
        import tvm

        arrays = arguments(plan, work, np.random.default_rng(0))
        self.tensors = [tvm.runtime.tensor(array, self.device) for array in arrays]

    def seconds(self) -> float:
        """Time of the thread that has most to do."""
        timer = self.module.time_evaluator(self.name, self.device, number=1, repeat=1)
        return max(float(timer(*self.tensors, self.n, *share).mean) for share in self.shares)
