"""Replaces linear maps by two thinner ones: [features -> outputs] by [features -> rank] and [rank -> outputs]."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.analysis.infer import analyse
from pruneopt.arrays import Array
from pruneopt.errors import PruneoptError
from pruneopt.model import Model, makers
from pruneopt.passes.base import Outcome
from pruneopt.passes.claims import Unchanged
from pruneopt.passes.context import Context
from pruneopt.passes.options import check_share
from pruneopt.passes.rewriting.edits import place_of
from pruneopt.passes.rewriting.names import Names
from pruneopt.passes.rewriting.shrink import tidy
from pruneopt.passes.sparsity.gram import Gram
from pruneopt.passes.sparsity.layers import find_layers, shape
from pruneopt.passes.sparsity.methods import Method
from pruneopt.passes.sparsity.patterns import Pattern
from pruneopt.passes.sparsity.sequence import Change, Settings, applied, changed
from pruneopt.passes.statistics.consumers import Consumer

ALIGN = 8  # ranks stay multiples of this, as far as they are large enough


@dataclass(frozen=True)
class LowRank:
    """Factor weights of MatMul, Gemm and ungrouped Conv, by a singular value decomposition weighted by activations.

    Attributes:
        ratio: share kept of each weight's parameters.
        only: glob pattern of weight, node or output names.
        samples: rows per layer to look at, at most; at least eight per feature.
    """

    ratio: float = 0.5
    only: str = "*"
    samples: int = 16_384

    def __post_init__(self) -> None:
        check_share("lowrank", "ratio", self.ratio, of="of parameters kept", whole=False)

    def run(self, model: Model, context: Context) -> Outcome:
        """The model with factored weights. Raises PruneoptError where there is none to factor."""
        analysis = analyse(model, context.observation(model), context.keep)
        layers = find_layers(analysis, self.only, context.keep)
        chosen = [c for c in layers.chosen if c.groups == c.slot == 1]
        if not chosen:
            raise PruneoptError("no weight of this model can be factored; see 'left' of sparsify for why")
        context.progress(f"factor {len(chosen)} weights")
        settings = Settings(Method(truncated, refits=True, data=False), Pattern(), self.samples)
        shares = dict.fromkeys(chosen, self.ratio)
        changes = list(changed(analysis, shares, settings, context))
        ranks = {c.name: rank(shape(c), self.ratio) for c in chosen}
        made, whole = factored(applied(model, changes), changes, ranks)
        return Outcome(made, {"layers": _entries(changes, self.ratio)}, Unchanged(whole, context.feeds))


def rank(sizes: tuple[int, int, int], ratio: float) -> int:
    """The rank at which two factors have `ratio` of the parameters of a (1, outputs, features) matrix at most."""
    _, outputs, features = sizes
    most = int(ratio * outputs * features / (outputs + features))
    return max(1, most // ALIGN * ALIGN or most)


def truncated(weight: Array, gram: Gram | None, pattern: Pattern, ratio: float) -> Array:
    """The matrix of the rank that `ratio` allows whose outputs are nearest, shape [outputs, features].

    With H = L L^T and W L = U S V^T, |(W' - W) L| is least for W' = U_r S_r V_r^T L^-1.
    """
    r = rank((1, *weight.shape), ratio)
    if gram is None:
        u, s, vt = np.linalg.svd(weight.astype(np.float64), full_matrices=False)
        return np.asarray((u[:, :r] * s[:r]) @ vt[:r], weight.dtype)
    lower = np.linalg.cholesky(gram.damped)
    u, _, _ = np.linalg.svd(weight @ lower, full_matrices=False)
    return np.asarray(u[:, :r] @ (u[:, :r].T @ weight), weight.dtype)


def factored(
    model: Model, changes: Sequence[tuple[Consumer, Change]], ranks: Mapping[str, int]
) -> tuple[Model, Model]:
    """Copies of the model: weights of these ranks are two factors each; they are what these factors come to.

    The latter in float32, as the product of two factors of half precision has more digits than they.
    """
    made, whole = model.copy(), model.copy()
    nodes, names = (makers(made.graph), makers(whole.graph)), Names(made.graph)
    for consumer, change in changes:
        (matrix,) = consumer.as_matrix(change.weight)
        kind = consumer.use.constant.dtype
        second, first = (f.astype(kind) for f in _factors(matrix, ranks[consumer.name]))
        split, plain = (each[consumer.name] for each in nodes)
        _split(made, split, (second, first), names)
        product = second.astype(np.float32) @ first.astype(np.float32)
        plain.inputs[1] = gs.Constant(plain.inputs[1].name, consumer.stored(product[None], np.float32))
    return tidy(made), whole


def _factors(matrix: Array, r: int) -> tuple[Array, Array]:
    """Balanced factors [outputs, r] and [r, features] of a matrix of rank r."""
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    root = np.sqrt(s[:r])
    return u[:, :r] * root, root[:, None] * vt[:r]


def _split(model: Model, node: gs.Node, factors: tuple[Array, Array], names: Names) -> None:
    """`node` reads the first factor's output and has the second factor as its weight; its bias stays where it is."""
    old, (second, first) = node.inputs[1], factors
    inner = gs.Variable(names.new(f"{node.outputs[0].name}_inner"), node.outputs[0].dtype)
    if node.op == "Conv":
        before, after = (
            first.reshape(len(first), *old.shape[1:]),
            second.reshape(*second.shape, *[1] * len(old.shape[2:])),
        )
        attributes = dict(node.attrs)
        node.attrs.clear()
    else:
        before, after = first.T, second if node.attrs.get("transB") else second.T
        attributes = {}
    weights = [
        gs.Constant(names.new(f"{old.name}_{which}"), np.ascontiguousarray(array))
        for which, array in (("in", before), ("out", after))
    ]
    op = "Conv" if node.op == "Conv" else "MatMul"
    at = place_of(model.graph.nodes, node)
    model.graph.nodes.insert(
        at, gs.Node(op, names.new(inner.name), attributes, [node.inputs[0], weights[0]], [inner])
    )
    node.inputs[0], node.inputs[1] = inner, weights[1]


def _entries(changes: Sequence[tuple[Consumer, Change]], ratio: float) -> list[dict[str, Any]]:
    return [
        {
            "name": c.use.constant.name,
            "shape": list(shape(c)),
            "rank": rank(shape(c), ratio),
            "error": change.error,
        }
        for c, change in changes
    ]
