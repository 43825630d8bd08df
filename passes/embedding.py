"""Takes rows out of embedding tables: words that the data does not use, or seldom."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.arrays import Array
from pruneopt.errors import PruneoptError, UsageError
from pruneopt.model import Model, values
from pruneopt.passes.base import Outcome
from pruneopt.passes.claims import Unchanged
from pruneopt.passes.context import Context
from pruneopt.passes.options import check_share
from pruneopt.passes.rewriting.edits import place_of
from pruneopt.passes.rewriting.names import Names
from pruneopt.passes.statistics.stream import Stream

SMALLEST = 256  # rows: a smaller table is not worth a look-up more
PLAIN = {
    "Cast",
    "Flatten",
    "Identity",
    "Reshape",
    "Squeeze",
    "Unsqueeze",
}  # an input behind these is still that input


@dataclass(frozen=True)
class Embedding:
    """Keep the rows that calibration data looks up most; all others become one, their mean.

    Only tables that are looked up by an input of the model take part: positions that are counted, and tables that
    something else uses too (an output layer), stay. The input keeps its meaning: a small table of integers comes
    before.

    Attributes:
        rows: share of the rows to keep; without it, all that occur in the data.
        only: glob pattern of the tables' names.
    """

    rows: float | None = None
    only: str = "*"

    def __post_init__(self) -> None:
        check_share("embedding", "rows", self.rows, of="of rows kept", whole=False)

    def run(self, model: Model, context: Context) -> Outcome:
        """The model with shorter tables.

        Raises:
            UsageError: there is no calibration data.
            PruneoptError: no table can lose rows.
        """
        if not context.calibration:
            raise UsageError("embedding counts which rows are looked up; give calibration data (--calib)")
        merged, made = model.copy(), model.copy()
        entries = []
        names = Names(made.graph)
        for table, nodes in list(_tables(merged.graph, context.keep)):
            if fnmatchcase(table.name, self.only):
                counts = _counts(model, nodes, len(values(table)), context)
                kept = self._kept(counts)
                if len(kept) + 1 < len(counts):
                    entries.append({"name": table.name, "rows": len(counts), "kept": len(kept)})
                    _replace(table, nodes, _merged(values(table), kept))
                    _shorten(made, {n.outputs[0].name for n in nodes}, kept, names)
        if not entries:
            raise PruneoptError(
                "no table that an input looks up has rows that the calibration data does without"
            )
        return Outcome(made, {"tables": entries}, Unchanged(merged, context.feeds))

    def _kept(self, counts: Array) -> Array:
        """The rows that are looked up most, of equals the first; ascending."""
        most = int((counts > 0).sum()) if self.rows is None else max(1, round(self.rows * len(counts)))
        return np.sort(np.argsort(-counts, kind="stable")[:most])


def _tables(graph: gs.Graph, keep: Sequence[str]) -> Iterator[tuple[gs.Constant, list[gs.Node]]]:
    """Tables that nothing but look-ups by an input use, with the nodes that do."""
    seen: set[int] = set()
    for node in graph.nodes:
        table = node.inputs[0] if node.op == "Gather" else None
        if isinstance(table, gs.Constant) and id(table) not in seen:
            seen.add(id(table))
            large = (
                len(table.shape) == 2 and table.shape[0] >= SMALLEST and np.dtype(table.dtype).kind in "fV"
            )
            asked = not any(fnmatchcase(name, p) for name in (table.name, node.name) for p in keep)
            if large and asked and all(_by_input(n, graph) for n in table.outputs):
                yield table, list(table.outputs)


def _by_input(node: gs.Node, graph: gs.Graph) -> bool:
    """Whether a node looks rows up at the places that an input of the model names."""
    if node.op != "Gather" or node.attrs.get("axis", 0) != 0 or node.inputs[0] is node.inputs[1]:
        return False
    tensor = node.inputs[1]
    while tensor.inputs and tensor.inputs[0].op in PLAIN:
        tensor = tensor.inputs[0].inputs[0]
    return any(tensor is each for each in graph.inputs)


def _counts(model: Model, nodes: Sequence[gs.Node], rows: int, context: Context) -> Array:
    """How often nodes look up each row, shape [rows]."""
    stream = Stream(model.copy(), context, context.calibration)
    total = np.zeros(rows, np.int64)
    for batch in stream.reach(*dict.fromkeys(node.inputs[1].name for node in nodes)):
        for ids in batch:
            total += np.bincount(np.mod(ids.reshape(-1), rows), minlength=rows)
    return total


def _merged(table: Array, kept: Array) -> Array:
    """The table at full size, rows that go replaced by their mean."""
    gone = np.ones(len(table), bool)
    gone[kept] = False
    found: Array = table.copy()
    found[gone] = table[gone].astype(np.float64).mean(0).astype(table.dtype)
    return found


def _replace(table: gs.Constant, nodes: Sequence[gs.Node], array: Array) -> None:
    fresh = gs.Constant(table.name, array)
    for node in nodes:
        node.inputs[0] = fresh


def _shorten(model: Model, readers: set[str], kept: Array, names: Names) -> None:
    """Nodes that make the tensors `readers` look up: first the place in the short table, then the row."""
    nodes = [n for n in model.graph.nodes if n.outputs and n.outputs[0].name in readers]
    table = nodes[0].inputs[0]
    whole = values(table)
    gone = np.ones(len(whole), bool)
    gone[kept] = False
    places = np.full(len(whole), len(kept), np.int64)
    places[kept] = np.arange(len(kept))
    short = np.concatenate([whole[kept], _merged(whole, kept)[gone][:1]])
    place = gs.Constant(names.new(f"{table.name}_places"), places)
    _replace(table, nodes, short)
    for node in nodes:
        inner = gs.Variable(names.new(f"{node.outputs[0].name}_places"), np.int64)
        at = place_of(model.graph.nodes, node)
        model.graph.nodes.insert(
            at, gs.Node("Gather", names.new(inner.name), {"axis": 0}, [place, node.inputs[1]], [inner])
        )
        node.inputs[1] = inner
