"""Sets every size behind the gaps from the new lengths, fixed ones and those known only when the model runs."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.analysis.axes import Axis, Kind, atoms, factors, find
from pruneopt.analysis.infer import Analysis
from pruneopt.analysis.masks import touched
from pruneopt.analysis.tokens import same
from pruneopt.analysis.witness import Entry, Indices, Sizes, Style, axes_of
from pruneopt.errors import PruneoptError
from pruneopt.model import Model
from pruneopt.passes.rewriting.edits import place_of
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
        super().__init__(model, analysis.seen, masks, Names(model.graph))
        self.analysis = analysis
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

    def _size(self, entry: Entry) -> tuple[int, ...]:
        if isinstance(entry, int):
            return (entry,) * self.seen.runs
        sizes = [self._new_size(axis) for axis in entry]
        return tuple(sum(s[run] for s in sizes) for run in range(self.seen.runs))

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

    def _mixed(self, witness: Sizes, node: gs.Node, sizes: list[tuple[int, ...]]) -> gs.Tensor:
        """A shape of which some entries are dynamic, each from a tensor that has it as a dimension."""
        pieces = []
        for entry, size in zip(witness.entries, sizes, strict=True):
            if isinstance(entry, int) or len(set(size)) == 1:
                pieces.append(self._constant(np.array([size[0]], np.int64)))
                continue
            pieces.append(self._total([self._measure(axis, node) for axis in entry], "Add", node))
        return self._node("Concat", pieces, node, {"axis": 0})

    def _measure(self, axis: Axis, node: gs.Node) -> gs.Tensor:
        """The size of an axis when the model runs, shape [1]."""
        axis = find(axis)
        place = self._place_of(axis, node)
        if place is not None:
            shape = self._node("Shape", [place[0]], node, {})
            return self._node(
                "Gather", [shape, self._constant(np.array([place[1]], np.int64))], node, {"axis": 0}
            )
        if self._is_fixed((axis,)):
            return self._constant(np.array([self._new_size(axis)[0]], np.int64))
        if axis.kind is Kind.ATOM:
            part = self._as_factor(axis, node)
            if part is not None:
                return part
            raise PruneoptError(f"{node.op} '{node.name}': the size {axis} is not known where it is needed")
        parts = [self._measure(item, node) for item in axis.items]
        return self._total(parts, "Add" if axis.kind is Kind.CONCAT else "Mul", node)

    def _as_factor(self, atom: Axis, node: gs.Node) -> gs.Tensor | None:
        """A size as the share of a dimension whose other factors are fixed."""
        for tensor in self._before(node):
            for dim, own in enumerate(self.analysis.axes.get(tensor.name, [])):
                rest = [f for f in factors(own) if find(f) is not atom]
                if len(rest) == len(factors(own)) - 1 and self._is_fixed(tuple(rest)):
                    shape = self._node("Shape", [tensor], node, {})
                    at = self._constant(np.array([dim], np.int64))
                    whole = self._node("Gather", [shape, at], node, {"axis": 0})
                    times = prod(self._new_size(f)[0] for f in rest)
                    return self._node("Div", [whole, self._constant(np.array([times], np.int64))], node, {})
        return None

    def _total(self, parts: list[gs.Tensor], op: str, node: gs.Node) -> gs.Tensor:
        total = parts[0]
        for part in parts[1:]:
            total = self._node(op, [total, part], node, {})
        return total

    def _place_of(self, axis: Axis, node: gs.Node) -> tuple[gs.Tensor, int] | None:
        """A tensor that is there before `node` and has exactly this axis, and the dimension."""
        for tensor in self._before(node):
            for dim, own in enumerate(self.analysis.axes.get(tensor.name, [])):
                if same(own, axis):
                    return tensor, dim
        return None

    def _before(self, node: gs.Node) -> list[gs.Tensor]:
        """What a node reads, then what is there before it."""
        return [*(t for t in node.inputs if isinstance(t, gs.Variable)), *self._earlier(node)]

    def _earlier(self, node: gs.Node) -> list[gs.Tensor]:
        """Inputs of the model, then what the nodes in front of this one read."""
        nodes = self.model.graph.nodes
        front = nodes[: place_of(nodes, node)]
        read = {id(t): t for n in front for t in n.inputs if isinstance(t, gs.Variable) and t.name}
        return [*self.model.graph.inputs, *read.values()]

    def _data_axes(self, node: gs.Node) -> list[Axis]:
        data = node.inputs[0]
        return [] if isinstance(data, gs.Constant) else self.analysis.axes.get(data.name, [])


__all__ = ["Lengths", "Style", "write_lengths"]
