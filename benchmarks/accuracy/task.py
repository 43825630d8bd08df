"""What a benchmark needs of a model: data to calibrate on, other data to judge by, and a score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

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
        kind: `cosine` or `kl`, the distance.
    """

    name: str
    model: Path
    calibration: list[Feeds]
    held: dict[str, list[Feeds]]
    score: Callable[[Run], dict[str, float]]
    kind: str = "cosine"
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)


def distance(dense: list[Array], pruned: list[Array], kind: str) -> float:
    """Mean over the last dimension's vectors of 1 - cosine, or of the KL divergence of two distributions."""
    a = np.concatenate([x.reshape(-1, x.shape[-1]) for x in dense]).astype(np.float64)
    b = np.concatenate([x.reshape(-1, x.shape[-1]) for x in pruned]).astype(np.float64)
    if kind == "cosine":
        return float(1 - np.mean((a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))))
    a, b = log_probabilities(a), log_probabilities(b)
    return float(np.mean((np.exp(a) * (a - b)).sum(1)))


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
