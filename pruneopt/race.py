"""Which of two models with sparse kernels is faster: both run in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pruneopt.frontends.dimensions import Feeds
from pruneopt.model import Model

GATE_SECONDS = 2.0
LEAST_ROUNDS = 7


class Race:
    """Times models with sparse kernels against each other, in turns."""

    def __init__(self, library: Path, feeds: Feeds, threads: int, tell: Callable[[str], None]) -> None:
        self.library, self.feeds, self.threads, self.tell = library, feeds, threads, tell

    def ratio(self, a: Model, b: Model) -> float:
        """Median time of `a` over that of `b`; CPU time of one thread, else time on the clock."""
        sessions = [self._session(model) for model in (a, b)]
        clock = time.thread_time if self.threads == 1 else time.perf_counter
        for session in sessions:
            session.run(None, self.feeds)
        ratios: list[float] = []
        end = time.perf_counter() + GATE_SECONDS
        while len(ratios) < LEAST_ROUNDS or time.perf_counter() < end:
            order = (0, 1) if len(ratios) % 2 else (1, 0)
            spent = {i: _time(sessions[i], self.feeds, clock) for i in order}
            ratios.append(spent[0] / spent[1])
        return statistics.median(ratios)

    def _session(self, model: Model) -> Any:
        import onnxruntime

        options = session_options(self.threads)
        options.register_custom_ops_library(str(self.library.resolve()))
        data = model.proto().SerializeToString()
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def session_options(threads: int) -> Any:
    """`onnxruntime.SessionOptions` with so many threads that do not spin while others are measured."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3
    return options


def _time(session: Any, feeds: Feeds, clock: Callable[[], float]) -> float:
    start = clock()
    session.run(None, feeds)
    return clock() - start
