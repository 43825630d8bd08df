"""The ways to prune that are compared: pruneopt's own, and its peers in processes of their own."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import pruneopt as po
from benchmarks.accuracy.task import Task
from benchmarks.isolated import run
from pruneopt.model import Model
from pruneopt.report import Report, Result

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 900.0  # seconds for one peer and one model
# The default goes by --macs; `R` stands for the share in the others.
OURS = {
    "default": None,
    "default, no rotation": "width{macs=R, basis=none}, repair",
    "only inner": "width{macs=R, axes=inner}, repair",
    "only heads": "width{macs=R, axes=heads}, repair",
    "only score": "width{macs=R, axes=score}, repair",
    "only value": "width{macs=R, axes=value}, repair",
    "only stream": "width{macs=R, axes=stream}, repair",
    "uniform obs + repair": "width{macs=R, criterion=obs, plan=uniform}, repair",
    "uniform wanda + repair": "width{macs=R, criterion=wanda}, repair",
    "uniform flap + bias": "width{macs=R, criterion=flap}, repair{ways=bias}",
    "uniform l2 + repair": "width{macs=R, criterion=l2}, repair",
    "uniform l2": "width{macs=R, criterion=l2}",
}
FREE = "no budget"
PEERS = ("Torch-Pruning", "onnxsim", "onnxsim, Wanda")
METHODS = (*OURS, *PEERS)


class Failed(Exception):
    """A method made no model, and why."""


def prune(task: Task, dense: Model, method: str, share: float | None, peers: str, cache: Path) -> Result:
    """The pruned model and its report, with `latency_ratio` and CPU `seconds`. Raises Failed."""
    begin = time.process_time()
    if method in PEERS:
        return _peer(task, dense, method, share or 1.0, peers, cache)
    try:
        passes = None if share is None else OURS.get(method)
        if passes is not None:
            result = po.prune(
                dense, passes=passes.replace("R", str(share)), calib=task.calibration, timed=False
            )
        else:
            result = po.prune(dense, macs=share, calib=task.calibration, timed=False)
    except po.PruneoptError as error:
        raise Failed(str(error)) from None
    except Exception as error:  # a defect is a result too, and the other rows are still wanted
        raise Failed(f"{type(error).__name__}: {error}") from error
    seconds = time.process_time() - begin
    return Result(result.model, result.report | _ratios(dense, result.model) | {"seconds": seconds})


def _peer(task: Task, dense: Model, method: str, share: float, python: str, cache: Path) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "peer.onnx"
        command = [python, "-m", "benchmarks.accuracy.peer", method, task.name, str(share), str(out)]
        ran = run([*command, "--cache", str(cache)], LIMIT, {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
        if ran.code != 0 or not out.exists():
            raise Failed("time limit" if ran.code is None else ran.last_words or f"exit {ran.code}")
        try:
            model = po.load(out)
            return Result(model, _ratios(dense, model) | {"seconds": ran.cpu})
        except po.PruneoptError as error:
            raise Failed(str(error)) from None


def _ratios(dense: Model, model: Model) -> Report:
    """Cost of both and their latency in turns."""
    compared = po.compare(dense, model)
    return {key: compared[key] for key in ("input", "output", "latency_ratio")}
