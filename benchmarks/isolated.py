"""Runs a command as a process of its own: its time, its peak memory, what it said."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Ran:
    """How a command ended.

    Attributes:
        code: its exit code, minus the signal's number where a signal ended it, or None where time ran out.
        seconds: wall time.
        cpu: CPU seconds of the process and the children it waited for.
        peak_mb: largest resident memory of any one of these, in MB.
        out: what it wrote to stdout.
        err: what it wrote to stderr.
    """

    code: int | None
    seconds: float
    cpu: float
    peak_mb: float
    out: str
    err: str

    @property
    def last_words(self) -> str:
        """The last line that is not empty, stderr's first: what a person would quote."""
        lines = [line.strip() for line in f"{self.out}\n{self.err}".splitlines() if line.strip()]
        return lines[-1][:300] if lines else ""


def run(command: Sequence[str], limit: float, environment: Mapping[str, str] | None = None) -> Ran:
    """Run `command` for at most `limit` seconds, its own environment variables added to ours."""
    with (
        tempfile.TemporaryFile("w+", errors="replace") as out,
        tempfile.TemporaryFile("w+", errors="replace") as err,
    ):
        begin = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=out, stderr=err, env={**os.environ, **(environment or {})}, start_new_session=True
        )
        expired = threading.Event()

        def stop() -> None:
            expired.set()
            os.killpg(process.pid, signal.SIGKILL)

        timer = threading.Timer(limit, stop)
        timer.start()
        _, status, usage = os.wait4(process.pid, 0)
        timer.cancel()
        seconds = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        code = None if expired.is_set() else process.returncode
        # Linux counts ru_maxrss in kB.
        return Ran(
            code, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1000, out.read(), err.read()
        )
