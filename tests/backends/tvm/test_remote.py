"""Tuning on a board: a tracker and a server in processes of their own, on this machine."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tvm", reason="sparse kernels are compiled by TVM")
pytest.importorskip("tornado", reason="TVM's tracker needs it")

from pruneopt.backends.tvm.layer import Layer
from pruneopt.backends.tvm.measure import Work
from pruneopt.backends.tvm.records import Records
from pruneopt.backends.tvm.remote import board
from pruneopt.backends.tvm.target import parse
from pruneopt.backends.tvm.tuner import tune
from pruneopt.errors import PruneoptError, UsageError

pytestmark = pytest.mark.slow


@pytest.fixture
def tracker() -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    host = ["--host", "127.0.0.1"]
    address = f"127.0.0.1:{port}"
    commands = [
        ["tvm.exec.rpc_tracker", *host, "--port", str(port), "--port-end", str(port + 1)],
        ["tvm.exec.rpc_server", *host, "--tracker", address, "--key", "board"],
    ]
    running = []
    for command in commands:
        running.append(subprocess.Popen([sys.executable, "-m", *command]))
        time.sleep(5)
    yield address
    for process in running:
        process.terminate()
        process.wait()


def test_a_board_measures(tracker: str, tmp_path: Path) -> None:
    weight = np.eye(32, dtype=np.float32)[None]
    with board(tracker, "board") as trial:
        best = tune(Layer(32, 32), Work(weight, 20), parse("host"), Records(tmp_path / "r"), 2, trial=trial)
    assert best.trials
    assert best.seconds > 0


def test_a_tracker_that_is_not_there_is_named() -> None:
    with pytest.raises(UsageError, match="host:port"), board("nowhere", "board"):
        pass
    with pytest.raises(PruneoptError, match="lends no board"), board("127.0.0.1:1", "board"):
        pass
