"""Orders features so that N:M patterns lose less: an exact change of the graph (RIA's channel permutation, 2024).

Wherever the entries of an atom can be taken out of every constant that it touches, they can be put into another
order: products, sums and norms do not mind. So a permutation of inputs goes into the weights that make them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from pruneopt.analysis.axes import Axis, Kind, atoms, factors, find, parts
from pruneopt.analysis.infer import Analysis
from pruneopt.analysis.witness import Indices
from pruneopt.arrays import Array
from pruneopt.model import Model, constants, values
from pruneopt.passes.rewriting.names import Names
from pruneopt.passes.rewriting.shrink import twins
from pruneopt.passes.sparsity.patterns import Pattern
from pruneopt.passes.statistics.consumers import Consumer

Order = npt.NDArray[np.int64]
Orders = Mapping[Axis, Order]
WORTH = 1e-3  # of a weight's scores: for less, features stay where they are


def orders(
    analysis: Analysis, scores: Mapping[Consumer, Callable[[], Array]], pattern: Pattern
) -> tuple[dict[Axis, Order], float]:
    """Permutations of atoms by which the pattern keeps more of the scores.

    Args:
        analysis: of the graph.
        scores: work out those of the layers' weights, shape [outputs, features].
        pattern: an N:M pattern.

    Returns:
        The new order of each atom that gains by one, and the share of all scores that is kept more.
    """
    found, gained, whole = {}, 0.0, 0.0
    for atom in dict.fromkeys(find(c.input_axis) for c in scores):
        reading = [score for c, score in scores.items() if find(c.input_axis) is atom]
        totals = np.sum([score().sum(0, dtype=np.float64) for score in reading], axis=0)
        whole += float(totals.sum())
        if _is_free(analysis, atom):
            order = dealt(totals, pattern)
            more = sum(_gain(score(), order, pattern) for score in reading)
            if more > WORTH * float(totals.sum()):
                found[atom], gained = order, gained + more
    return found, gained / (whole or 1.0)


def dealt(totals: Array, pattern: Pattern) -> Order:
    """Features sorted by their scores, shape [features], and dealt to the groups to and fro: one of each rank."""
    groups = len(totals) // pattern.group
    ranked = np.argsort(-totals, kind="stable")
    full = ranked[: groups * pattern.group].reshape(pattern.group, groups)
    full[1::2] = full[1::2, ::-1].copy()
    return np.concatenate([full.T.reshape(-1), ranked[groups * pattern.group :]])


def reorder(analysis: Analysis, found: Orders) -> Model:
    """A copy of the analysed model with the entries of atoms in another order."""
    model = analysis.model.copy()
    nodes = twins(analysis.model, model)
    names = Names(model.graph)
    made: dict[tuple[object, ...], tuple[str, gs.Constant]] = {}
    for use in analysis.uses:
        if any(a in found for axis in use.axes for a in atoms(axis)):
            taken = [_order_of(axis, found) for axis in use.axes]
            key = (id(use.constant), *(t.tobytes() for t in taken))
            if key not in made:
                old = use.constant.name
                made[key] = (
                    old,
                    gs.Constant(names.new(f"{old}_reordered"), _taken(values(use.constant), taken)),
                )
            nodes[id(use.node)].inputs[use.slot] = made[key][1]
    _restore_names(model, list(made.values()))
    return model


def _restore_names(model: Model, made: Sequence[tuple[str, gs.Constant]]) -> None:
    """The first of the constants made of one that nobody uses as it was takes its name."""
    used = {c.name for c in constants(model.graph)}
    for old, constant in made:
        if old not in used:
            constant.name = old
            used.add(old)


def _taken(array: Array, taken: Sequence[Order]) -> Array:
    for dim, order in enumerate(taken):
        if not np.array_equal(order, np.arange(len(order))):
            array = np.take(array, order, axis=dim)
    return np.ascontiguousarray(array)


def _order_of(axis: Axis, found: Orders) -> Order:
    """The order of an axis, by the rules that masks follow: Kronecker product and concatenation."""
    axis = find(axis)
    if axis.kind is Kind.ATOM:
        return found.get(axis, np.arange(axis.size[0]))
    if axis.kind is Kind.CONCAT:
        pieces = [_order_of(p, found) for p in parts(axis)]
        starts = np.cumsum([0, *map(len, pieces)])
        return np.concatenate([p + s for p, s in zip(pieces, starts, strict=False)])
    each = [_order_of(f, found) for f in factors(axis)]
    return reduce(lambda a, b: (a[:, None] * len(b) + b).reshape(-1), each, np.zeros(1, int))


def _is_free(analysis: Analysis, atom: Axis) -> bool:
    """Whether an atom may shrink, and nothing names its entries by their place."""
    listed = any(isinstance(w, Indices) and atom in atoms(w.axis) for w in analysis.witnesses)
    return atom.kind is Kind.ATOM and atom.static and not atom.frozen and not listed


def _gain(scores: Array, order: Order, pattern: Pattern) -> float:
    return _kept(scores[:, order], pattern) - _kept(scores, pattern)


def _kept(scores: Array, pattern: Pattern) -> float:
    return float((scores * pattern.keep(scores, 0.0)).sum(dtype=np.float64))
