"""How far a changed model's outputs are from the original's, as one number that adds up over small changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.arrays import Array, Feeds
from pruneopt.model import Model
from pruneopt.passes.context import Context
from pruneopt.passes.statistics.readings import is_linear, is_softmax, log_softmax, told_apart

Outputs = list[dict[str, Array]]
TINY = 1e-12
BLOCK = 1 << 14  # elements that are compared at once
LOOKED = 1 << 22  # elements that say what an output is
MOST = 1 << 25  # elements of one output that are kept over all batches


def outputs(model: Model, context: Context, batches: Sequence[Feeds]) -> Outputs:
    """The floating-point outputs of every batch; of large ones some rows, the same for every model."""
    session = context.session(model)
    found = []
    for i, batch in enumerate(batches):
        made = session.run(batch)
        context.ran(batch)
        found.append(kept(made, len(batches), [context.seed, i]))
    return found


def kept(made: Mapping[str, Any], count: int, seed: Sequence[int]) -> dict[str, Array]:
    """Of what one of so many batches came to, what is compared."""
    return {
        name: _some_rows(array, MOST // count, seed)
        for name, array in made.items()
        if isinstance(array, np.ndarray) and array.dtype.kind in "fV"
    }


def _some_rows(array: Array, most: int, seed: Sequence[int]) -> Array:
    """At most `most` elements, in whole rows along the last dimension."""
    if array.size <= most or array.ndim < 2:
        return array
    rows = array.reshape(-1, array.shape[-1])
    chosen = np.random.default_rng(seed).choice(len(rows), max(1, most // rows.shape[1]), replace=False)
    return np.ascontiguousarray(rows[np.sort(chosen)])


@dataclass(frozen=True)
class Yardstick:
    """Damage to a model's outputs: one number that adds up over small changes.

    The mean KL divergence of probabilities, and the squared distance of others as a share of the variance, summed over
    outputs. Of scores that a softmax makes classes of both: the divergence knows which classes matter, but says little
    of those that no sample shows, so that the distance counts by one over the number of classes that are told apart.

    Attributes:
        dense: the model's outputs for every batch.
        probabilities: names of outputs.
        scores: the same, and how many classes they tell apart (`readings.told_apart`).
    """

    dense: Outputs
    probabilities: frozenset[str] = frozenset()
    scores: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, graph: gs.Graph, dense: Outputs) -> Yardstick:
        """For the outputs of a graph, read as what they seem to be (`readings`)."""
        known = [t for t in graph.outputs if dense and t.name in dense[0]]
        probabilities = frozenset(t.name for t in known if is_softmax(t))
        told = {t.name: told_apart(_rows(dense, t.name)) for t in known if is_linear(t)}
        return cls(dense, probabilities, {name: classes for name, classes in told.items() if classes})

    def damage(self, found: Outputs) -> float:
        """What a changed model's outputs for the same batches come to."""
        total = 0.0
        for name in self.dense[0]:
            pairs = [(a[name], b[name]) for a, b in zip(self.dense, found, strict=True)]
            if name in self.scores:
                total += _of_scores(pairs) + _moved(pairs) / self.scores[name]
            else:
                total += _divergence(pairs) if name in self.probabilities else _moved(pairs)
        return total


def _rows(dense: Outputs, name: str) -> Array:
    """Some rows of an output, evenly from all batches; none where rows differ in length."""
    made = [each[name] for each in dense if each[name].size and each[name].ndim]
    if len({array.shape[-1] for array in made}) != 1:
        return np.zeros((0, 1), np.float32)
    step = -(-sum(array.size for array in made) // LOOKED)
    return np.concatenate([array.reshape(-1, array.shape[-1])[::step] for array in made])


def _of_scores(pairs: Sequence[tuple[Array, Array]]) -> float:
    whole, count = 0.0, 0
    for a, b in pairs:
        a, b = a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1])
        step = max(1, BLOCK // a.shape[-1])
        for i in range(0, len(a), step):
            p, q = (log_softmax(x[i : i + step].astype(np.float64)) for x in (a, b))
            whole += float((np.exp(p) * (p - q)).sum())
        count += len(a)
    return max(0.0, whole / max(count, 1))


def _divergence(pairs: Sequence[tuple[Array, Array]]) -> float:
    rows = sum(a.size // a.shape[-1] for a, _ in pairs)
    whole: float = sum(
        float(a @ np.log(np.maximum(a, TINY) / np.maximum(b, TINY))) for a, b in _blocks(pairs)
    )
    return float(max(0.0, whole / max(rows, 1)))


def _moved(pairs: Sequence[tuple[Array, Array]]) -> float:
    shift = float(pairs[0][0].mean(dtype=np.float64))  # near the mean, so that the variance does not cancel
    count = sum(a.size for a, _ in pairs)
    first = second = moved = 0.0
    for a, b in _blocks(pairs):
        moved += float((a - b) @ (a - b))
        a -= shift
        first, second = first + float(a.sum()), second + float(a @ a)
    return moved / max(second - first * first / max(count, 1), TINY)


def _blocks(pairs: Sequence[tuple[Array, Array]]) -> Iterator[tuple[Array, Array]]:
    """Flat float64 pieces of both that stay in the cache."""
    for a, b in pairs:
        a, b = a.reshape(-1), b.reshape(-1)
        for i in range(0, a.size, BLOCK):
            yield a[i : i + BLOCK].astype(np.float64), b[i : i + BLOCK].astype(np.float64)
