"""Sets every size behind the gaps from the new lengths, fixed ones and those known only when the model runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.analysis.axes import Axis, Kind, atoms, find
from pruneopt.analysis.infer import Analysis
from pruneopt.analysis.masks import touched
from pruneopt.analysis.tokens import same
from pruneopt.analysis.witness import Entry, Indices, Sizes, Style, axes_of
from pruneopt.errors import PruneoptError
from pruneopt.model import Model
from pruneopt.passes.rewriting.names import Names
from pruneopt.passes.rewriting.shrink import tidy, twins
from pruneopt.passes.rewriting.witnesses import WitnessWriter

Lengths = Mapping[Axis, tuple[int, ...]]


def write_lengths(analysis: Analysis, lengths: Lengths) -> Model:
    """A copy of the graph with gaps in which every witness of a length holds the new one.

    Args:
        analysis: of the graph with gaps.
        lengths: per token atom its size in each observed run; those that differ between the runs are computed.
    """
    model = analysis.model.copy()
    nodes = twins(analysis.model, model)
    writer = _Writer(analysis, model, lengths)
    for witness in analysis.witnesses:
        if any(touched(axis, writer.masks) for axis in axes_of(witness)):
            writer.write(witness, nodes[id(witness.node)])
    return tidy(model)


class _Writer(WitnessWriter):
    """Writes witnesses of axes whose new size may be dynamic."""

    def __init__(self, analysis: Analysis, model: Model, lengths: Lengths) -> None:
        masks = {atom: np.arange(atom.size[0]) < sizes[0] for atom, sizes in lengths.items()}
        super().__init__(model, analysis, masks, Names(model.graph))
        self.lengths = lengths
        self.old = {
            id(new): old for old, new in zip(analysis.model.graph.nodes, model.graph.nodes, strict=True)
        }

    def write(self, witness: Any, node: gs.Node) -> None:
        """Set the witness's place on `node`."""
        if isinstance(witness, Indices) and not witness.axis.static:
            raise PruneoptError(f"{node.op} '{node.name}' reads fixed places of a dynamic number of tokens")
        super().write(witness, node)

    def _new_size(self, axis: Axis) -> tuple[int, ...]:
        axis = find(axis)
        if axis.kind is Kind.ATOM:
            return self.lengths.get(axis, axis.size)
        sizes = [self._new_size(item) for item in axis.items]
        combine = sum if axis.kind is Kind.CONCAT else np.prod
        return tuple(int(combine([s[run] for s in sizes])) for run in range(self.seen.runs))

    def _is_fixed(self, entry: Entry) -> bool:
        """Whether no dynamic atom is in it: two runs may agree by chance."""
        if isinstance(entry, int):
            return True
        return all(
            len(set(self.lengths.get(a, a.size))) == 1 and a.static for axis in entry for a in atoms(axis)
        )

    def _inferred(self, witness: Sizes, node: gs.Node, sizes: list[tuple[int, ...]]) -> list[int] | None:
        """A Reshape target of literals, 0 where the data has the same dimension, at most one -1."""
        data = self._data_axes(node)
        target = []
        for i, (entry, size) in enumerate(zip(witness.entries, sizes, strict=True)):
            alike = (
                i < len(data) and not isinstance(entry, int) and len(entry) == 1 and same(data[i], entry[0])
            )
            target.append(size[0] if self._is_fixed(entry) else 0 if alike else -1)
        if target.count(-1) > 1:
            return None
        if 0 in target:
            node.attrs.pop("allowzero", None)
        return target

    def _data_axes(self, node: gs.Node) -> list[Axis]:
        data = node.inputs[0]
        return [] if isinstance(data, gs.Constant) else self.analysis.axes.get(data.name, [])


__all__ = ["Lengths", "Style", "write_lengths"]
