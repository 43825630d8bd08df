"""What a benchmark needs of a model: data to calibrate on, other data to judge by, and a score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import pruneopt as po
from pruneopt.backends.session import Session
from pruneopt.model import Model

Array = npt.NDArray[Any]
Feeds = dict[str, Array]
Run = Callable[[Feeds], Array]


@dataclass(frozen=True)
class Task:
    """One model and its data.

    Attributes:
        name: on the command line.
        model: the ONNX file.
        calibration: batches that pruneopt sees.
        held: named sets of other batches, on which the output's distance to the dense model's is taken.
        score: task scores from a function that runs one batch and returns the output.
        kind: the distance: `cosine` and `kl` of vectors along the last dimension, `sample` for the cosine of
            each sample's whole output.
        network: the PyTorch module and its layers that make the outputs, for peers that prune modules.
    """

    name: str
    model: Path
    calibration: list[Feeds]
    held: dict[str, list[Feeds]]
    score: Callable[[Run], dict[str, float]]
    kind: str = "cosine"
    network: Callable[[], tuple[Any, list[Any]]] | None = None

    @property
    def unit(self) -> str:
        """What the distance is called."""
        return "KL" if self.kind == "kl" else "1 - cos"


def distance(dense: list[Array], pruned: list[Array], kind: str) -> float:
    """Mean over vectors of 1 - cosine, or of the KL divergence of two distributions."""
    total = count = 0.0
    for a, b in zip(dense, pruned, strict=True):
        each = _distances(_rows(a, kind), _rows(b, kind), kind)
        total, count = total + float(each.sum()), count + len(each)
    return total / count


def moved(dense: list[Array], pruned: list[Array]) -> float:
    """Relative L2 distance of all outputs together."""
    pairs = [(a.astype(np.float64), b.astype(np.float64)) for a, b in zip(dense, pruned, strict=True)]
    whole = sum(float(np.square(a).sum()) for a, _ in pairs)
    return float((sum(float(np.square(a - b).sum()) for a, b in pairs) / whole) ** 0.5)


def _rows(x: Array, kind: str) -> Array:
    return x.reshape(len(x) if kind == "sample" else -1, -1 if kind == "sample" else x.shape[-1]).astype(
        np.float64
    )


def _distances(a: Array, b: Array, kind: str) -> Array:
    if kind == "kl":
        a, b = log_probabilities(a), log_probabilities(b)
        return np.asarray((np.exp(a) * (a - b)).sum(1))
    return np.asarray(1 - (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)))


def log_probabilities(x: Array) -> Array:
    """Logarithms of the rows' distributions: rows are logits, or probabilities already."""
    if (x >= 0).all() and np.allclose(x.sum(1), 1, atol=1e-3):
        return np.asarray(np.log(np.maximum(x, 1e-12)))
    x = x - x.max(1, keepdims=True)
    return np.asarray(x - np.log(np.exp(x).sum(1, keepdims=True)))


def by_length(rows: list[list[int]], most: int = 16) -> list[list[list[int]]]:
    """Token lists grouped by equal length, at most `most` to a batch: no padding, which would blur statistics."""
    groups: dict[int, list[list[int]]] = {}
    for row in rows:
        groups.setdefault(len(row), []).append(row)
    return [same[i : i + most] for _, same in sorted(groups.items()) for i in range(0, len(same), most)]


def runner(model: Model) -> Run:
    """The first output of a model, by its feeds."""
    session = Session(model)

    def run(feeds: Feeds) -> Array:
        found: Array = session.run(feeds)[session.outputs[0]]
        return found

    return run


class Dense:
    """A task, and what its dense model makes of the held-out data."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.model = po.load(task.model)
        run = runner(self.model)
        self.dense = {name: [run(batch) for batch in held] for name, held in task.held.items()}
        self.score = task.score(run)
