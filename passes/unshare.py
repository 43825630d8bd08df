"""Gives each reader of a table nodes of its own that make it, where the table alone ties widths together.

    q_l cos(p) + turned(q_l) sin(p)   for layers l = 1 .. L

What is made of constants and sizes alone is the same for all layers, and while they share it, all heads can only lose
the same entries. The copies read the same constants, and those that are not cut apart are one again afterwards
(`exact.duplicates`): what is paid for is the cut tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from pruneopt.analysis.axes import Axis, atoms, is_free
from pruneopt.analysis.groups import find_groups
from pruneopt.analysis.infer import Analysis, analyse
from pruneopt.analysis.observe import derived_tensors
from pruneopt.model import Model
from pruneopt.passes.base import Outcome
from pruneopt.passes.claims import Unchanged
from pruneopt.passes.context import Context
from pruneopt.passes.rewriting.edits import read_instead, repeated
from pruneopt.passes.rewriting.names import Names
from pruneopt.passes.rewriting.shrink import twins


@dataclass(frozen=True)
class Unshare:
    """Copy what makes shared tables, such as those of rotary positions, for each of their readers."""

    def run(self, model: Model, context: Context) -> Outcome:
        """The model with copies, if there is more to prune apart with them; exact."""
        analysis = analyse(model, context.observation(model), context.keep)
        tables = list(_tables(analysis))
        if not tables:
            return Outcome(model, {"copies": 0})
        copy = model.copy()
        twin, names = twins(model, copy), Names(copy.graph)
        count = sum(_copy(copy.graph, [twin[id(n)] for n in chain], names) for chain in tables)
        apart = analyse(copy, context.observation(copy), context.keep)
        if len(find_groups(apart)) <= len(find_groups(analysis)):
            return Outcome(model, {"copies": 0})
        return Outcome(copy, {"copies": count}, Unchanged(model, context.feeds))


def _tables(analysis: Analysis) -> Iterator[list[gs.Node]]:
    """The nodes that make each table with a width of several readers: all through which that width runs, in order."""
    graph = analysis.model.graph
    derived = derived_tensors(graph)
    ends = {t.name for t in graph.outputs}
    for node in graph.nodes:
        out = node.outputs[0]
        widths = _widths(analysis, out)
        readers = [n for n in _readers(out) if n.outputs[0].name not in derived]
        if out.name in derived and out.name not in ends and widths and len(readers) > 1:
            chain = [n for n in _behind(node, analysis, widths) if len(n.outputs) == 1]
            if chain and chain[-1] is node:
                yield chain


def _widths(analysis: Analysis, tensor: gs.Tensor) -> set[Axis]:
    return {a for axis in analysis.axes.get(tensor.name, []) for a in atoms(axis) if is_free(a)}


def _behind(node: gs.Node, analysis: Analysis, widths: set[Axis]) -> list[gs.Node]:
    """The node and those before it through which the widths run, each after what it reads."""
    found: dict[int, gs.Node] = {}

    def visit(each: gs.Node) -> None:
        for tensor in each.inputs:
            runs_through = not widths.isdisjoint(_widths(analysis, tensor))
            if runs_through and tensor.inputs and id(tensor.inputs[0]) not in found:
                visit(tensor.inputs[0])
        found[id(each)] = each

    visit(node)
    return list(found.values())


def _readers(tensor: gs.Tensor) -> list[gs.Node]:
    return list({id(n): n for n in tensor.outputs}.values())


def _copy(graph: gs.Graph, chain: Sequence[gs.Node], names: Names) -> int:
    """All readers of what the chain makes but the first get a copy of the chain; how many that are."""
    table = chain[-1].outputs[0]
    readers = _readers(table)[1:]
    for reader in readers:
        read_instead(table, repeated(graph, chain, names)[table.name], [reader])
    return len(readers)
