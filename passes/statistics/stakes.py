"""What an error of each entry of a linear layer's output is worth, where the layer makes scores of classes.

For small errors d of scores whose softmax is p, KL(p || q) is half the variance of d under p, at most half the sum of
p_i d_i^2: a class that never is likely hardly matters. But some samples say little of rare classes: of the likelihood,
as much belongs to classes that they do not show as to those that they show once (Good 1953), and all share it alike.
And `damage` counts squared distances of scores a little, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.arrays import Array
from pruneopt.model import Model
from pruneopt.passes.context import Context
from pruneopt.passes.statistics.damage import Yardstick, outputs
from pruneopt.passes.statistics.readings import is_linear, is_softmax, log_softmax

FEW = 8  # batches that are looked at
ROWS = 64  # at once


@dataclass(frozen=True)
class Stakes:
    """The worth of a squared error of each entry of the model's outputs that are classes; by name, shape [classes]."""

    of_outputs: Mapping[str, Array]

    @classmethod
    def of(cls, model: Model, context: Context) -> Stakes:
        """Looked at once per run: what follows may turn a model, but not what its outputs are."""

        def look() -> Stakes:
            return cls({name: worth for name, worth in _outputs(model, context) if np.isfinite(worth).all()})

        found: Stakes = context.once("stakes", look)
        return found

    def of_layers(self, graph: gs.Graph) -> dict[str, Array]:
        """By the name of what each linear layer makes that such an output is made of, up to a bias and a softmax."""
        found: dict[str, Array] = {}
        for tensor in graph.outputs:
            if tensor.name in self.of_outputs:
                scores = _scores_of(tensor) if is_softmax(tensor) else tensor
                found |= dict.fromkeys(_makes(scores), self.of_outputs[tensor.name])
        return found


def _outputs(model: Model, context: Context) -> Iterator[tuple[str, Array]]:
    if not context.calibration or not any(is_linear(t) or is_softmax(t) for t in model.graph.outputs):
        return
    few = context.calibration[:: -(-len(context.calibration) // FEW)]
    dense = outputs(model, context, few)
    yardstick = Yardstick.of(model.graph, dense)
    for name in {*yardstick.scores, *yardstick.probabilities}:
        arrays = [each[name] for each in dense if each[name].ndim]
        if len({array.shape[-1] for array in arrays}) == 1:
            rows = [array.reshape(-1, array.shape[-1]) for array in arrays]
            if name in yardstick.probabilities:
                yield name, _worth(rows)
            else:
                spread = rows[0].shape[1] * float(np.mean([r.var(dtype=np.float64) for r in rows]))
                yield name, _worth(rows, scores=True) + 1 / (spread * yardstick.scores[name])


def _worth(rows: list[Array], scores: bool = False) -> Array:
    """Half of how likely each class is, as far as these rows can tell."""
    counts = np.zeros(rows[0].shape[-1])
    for block in (r[i : i + ROWS].astype(np.float64) for r in rows for i in range(0, len(r), ROWS)):
        counts += (np.exp(log_softmax(block)) if scores else block).sum(0)
    shown_once = float((counts * np.exp(-counts)).sum())  # of classes that come up so often in the mean
    unseen = shown_once / len(counts)
    found: Array = (counts + unseen) / (counts + unseen).sum() / 2
    return found


def _scores_of(tensor: gs.Tensor) -> gs.Tensor:
    """What a softmax reads, be it written out."""
    node = tensor.inputs[0]
    return node.inputs[0] if node.op == "Softmax" else node.inputs[0].inputs[0].inputs[0]


def _makes(tensor: gs.Tensor) -> Iterator[str]:
    """The names under which a linear layer's output is known: with its bias and without, and less its maximum."""
    while tensor.inputs:
        yield tensor.name
        node = tensor.inputs[0]
        if node.op not in ("Add", "Sub"):
            return
        tensor = next((t for t in node.inputs if isinstance(t, gs.Variable)), node.inputs[0])
