"""Slices every constant by the masks of its axes and sets every witness from the new sizes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from pruneopt.analysis.bodies import nodes_of
from pruneopt.analysis.cost import stored_cost
from pruneopt.analysis.infer import Analysis, ConstantUse
from pruneopt.analysis.masks import Mask, Masks, mask_of, size_of, touched
from pruneopt.analysis.observe import Observation
from pruneopt.analysis.witness import axes_of
from pruneopt.arrays import Array
from pruneopt.frontends.mapped import release, spill
from pruneopt.model import Model, values
from pruneopt.passes.rewriting.names import Names
from pruneopt.passes.rewriting.witnesses import WitnessWriter

LARGE_MODEL = 1 << 30  # bytes of weights from which on sliced ones go to disk
BIG = 1 << 20  # bytes; smaller weights are not worth a file
PIECE = 1 << 22  # bytes of a weight that are cut at once on their way there


def shrink(analysis: Analysis, masks: Masks) -> Model:
    """A copy of the analysed model without the masked entries.

    Args:
        analysis: of the model to shrink, which stays as it is.
        masks: one keep-mask per atom, shape [atom size]; atoms that are absent keep everything.
    """
    model = analysis.model.copy()
    nodes = twins(analysis.model, model)
    names = Names(model.graph)
    uses = [use for use in analysis.uses if any(touched(axis, masks) for axis in use.axes)]
    cut = _Cutter(uses, masks, names, large=stored_cost(model)[1] > LARGE_MODEL)
    for use in uses:
        nodes[id(use.node)].inputs[use.slot] = cut.constant(use)
    writer = WitnessWriter(model, analysis, masks, names)
    for witness in analysis.witnesses:
        if any(touched(axis, masks) for axis in axes_of(witness)):
            writer.write(witness, nodes[id(witness.node)])
    cut.restore_names(model.graph)
    return tidy(model)


def shrunk_sizes(analysis: Analysis, masks: Masks) -> Observation:
    """The sizes of the tensors of `shrink(analysis, masks)`, without values."""
    seen = analysis.seen
    kept = {atom: int(mask.sum()) for atom, mask in masks.items()}
    shapes = dict(seen.shapes)
    for name, axes in analysis.axes.items():
        shapes[name] = tuple(tuple(size_of(a, kept, run) for run in range(seen.runs)) for a in axes)
    return Observation(seen.runs, shapes, feeds=seen.feeds)


def twins(model: Model, copy: Model) -> dict[int, gs.Node]:
    """The copy's node for each node of `model`, by `id`."""
    return {id(a): b for a, b in zip(nodes_of(model.graph), nodes_of(copy.graph), strict=True)}


def tidy(model: Model) -> Model:
    """Forget inferred shapes, which are stale now; the signature stays. Of a body's, the ranks stay."""
    ends = {t.name for t in (*model.graph.inputs, *model.graph.outputs)}
    signatures = [t for g in model.graph.subgraphs(recursive=True) for t in (*g.inputs, *g.outputs)]
    ranks = {id(t): None if t.shape is None else len(t.shape) for t in signatures}
    made = (t for node in nodes_of(model.graph) for t in node.outputs)
    for tensor in (*made, *signatures):
        if isinstance(tensor, gs.Variable) and tensor.name not in ends:
            rank = ranks.get(id(tensor))
            tensor.shape = None if rank is None else [None] * rank
    return model


class _Cutter:
    """Sliced constants: one per constant and cut, shared by all uses that agree, cloned where they differ.

    Those of `large` models are cut by all cores and put on disk.
    """

    def __init__(self, uses: Iterable[ConstantUse], masks: Masks, names: Names, large: bool) -> None:
        self.masks = masks
        distinct = {self._key(use): use for use in uses}
        with ThreadPoolExecutor(None if large else 1) as pool:
            arrays = list(pool.map(self._to_disk if large else self._small, distinct.values()))
        self._made: dict[tuple[object, ...], gs.Constant] = {}
        self._origin: dict[str, list[gs.Constant]] = {}
        for (key, use), array in zip(distinct.items(), arrays, strict=True):
            made = self._made[key] = gs.Constant(names.new(f"{use.constant.name}_kept"), array)
            self._origin.setdefault(use.constant.name, []).append(made)

    def constant(self, use: ConstantUse) -> gs.Constant:
        return self._made[self._key(use)]

    def _key(self, use: ConstantUse) -> tuple[object, ...]:
        return (id(use.constant), *(keep.tobytes() for keep in self._keeps(use)))

    def _keeps(self, use: ConstantUse) -> list[Mask]:
        return [mask_of(axis, self.masks) for axis in use.axes]

    def _small(self, use: ConstantUse) -> Array:
        return compress(values(use.constant), self._keeps(use))

    def _to_disk(self, use: ConstantUse) -> Array:
        array, keeps = values(use.constant), self._keeps(use)
        shape = tuple(int(keep.sum()) for keep in keeps)
        if array.dtype.itemsize * math.prod(shape) < BIG:
            return compress(array, keeps)
        small = spill(_pieces(array, keeps), array.dtype, shape)
        release([array])
        return small

    def restore_names(self, graph: gs.Graph) -> None:
        """The first cut of a constant that nobody uses whole any more takes its name."""
        used = {t.name for g in (graph, *graph.subgraphs(recursive=True)) for n in g.nodes for t in n.inputs}
        used |= {t.name for t in (*graph.inputs, *graph.outputs)}
        for name, made in self._origin.items():
            if name not in used:
                made[0].name = name


def compress(array: Array, keeps: list[npt.NDArray[np.bool_]]) -> Array:
    """`array` with only the kept entries of each dimension; the dimension that loses most goes first."""
    for dim in sorted(range(len(keeps)), key=lambda d: float(keeps[d].mean()) if keeps[d].size else 1.0):
        if not keeps[dim].all():
            array = np.compress(keeps[dim], array, axis=dim)
    return np.ascontiguousarray(array).reshape(array.shape)  # ascontiguousarray makes a vector of a scalar


def _pieces(array: Array, keeps: list[npt.NDArray[np.bool_]]) -> Iterator[Array]:
    """`compress` in pieces of some megabytes, whose memory is used again: fresh memory costs more than the cut."""
    rows = np.flatnonzero(keeps[0])
    step = max(1, PIECE // max(1, array[:1].nbytes))
    for at in range(0, rows.size, step):
        yield compress(array[rows[at : at + step]], [np.ones(rows[at : at + step].size, bool), *keeps[1:]])
