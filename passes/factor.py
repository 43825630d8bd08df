"""Writes wide products as two of full rank, so that the width between them can shrink. Exact.

    y = x W  ->  z = x B,  y = z W',  B W' = W        W: [features, outputs], many more outputs than features

A classifier over a language's words can only lose what the whole residual stream loses; z is its own. It comes in
the basis in which its entries matter in descending order and removing one says nothing of the others: with second
moments C = L L^T of x, what errors of x are worth H = sum of s_o w_o w_o^T over outputs o (`statistics.stakes`), and
L^T H L = V S V^T, that is B = L^-T V S^1/2. The means are left in C, so that no bias has to make up for them.

A classifier is often its word table. Then the table becomes W' for both, a list of positions says which of its columns
the classifier reads, and what is looked up goes back by B: nothing is stored twice.

    E [words, features]  ->  E' = W'^T;   words: E'[ids] B^T;   y = z (E'[:, columns])^T
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.analysis.axes import Axis, find, is_free
from pruneopt.analysis.infer import Analysis, analyse
from pruneopt.arrays import Array
from pruneopt.model import Model, makers, values
from pruneopt.passes.base import Outcome
from pruneopt.passes.claims import Unchanged
from pruneopt.passes.context import Context
from pruneopt.passes.exact.identities import drop_dead
from pruneopt.passes.rewriting.edits import ends_of, only_reader, place_of
from pruneopt.passes.rewriting.names import Names
from pruneopt.passes.statistics.consumers import OUTPUTS, Consumer, find_consumers
from pruneopt.passes.statistics.evidence import SAMPLES
from pruneopt.passes.statistics.moments import root
from pruneopt.passes.statistics.rows import pick
from pruneopt.passes.statistics.stakes import Stakes
from pruneopt.passes.statistics.stream import Stream, hold_out, small_batches

WIDE = 16  # outputs per feature, at least: another product of features x features is little beside it then
FEWEST = 16  # features
DAMPING = 1e-6  # of the mean square: keeps the basis well conditioned
LEAST = 1e-12  # of the largest worth: directions that nothing hears


@dataclass(frozen=True)
class Factor:
    """Give products of far more outputs than features an inner width of their own; needs calibration data.

    Attributes:
        leave: names of outputs of products, joined by `|`, that stay one.
    """

    leave: str = ""

    def run(self, model: Model, context: Context) -> Outcome:
        """The model with such products written as two; the model as it is where there are none."""
        found = _wide(model, context) if context.calibration else ()
        wide = [consumer for consumer in found if consumer.name not in self.leave.split("|")]
        if not wide:
            return Outcome(model, {"factored": []})
        context.progress(f"factor {len(wide)} wide products")
        stakes = Stakes.of(model, context).of_layers(model.graph)
        squares = _second_moments(model, wide, context)
        wide = [consumer for consumer in wide if np.isfinite(squares[consumer.data]).all()]
        copy = model.copy()
        nodes, names = makers(copy.graph), Names(copy.graph)
        entries = []
        for consumer in wide:
            worth = consumer.heard(stakes.get(consumer.name, np.ones(consumer.outputs[1]))[None])[0]
            product = _Product(nodes[consumer.name], copy.graph, names)
            sizes = {"features": consumer.features, "outputs": consumer.outputs[1]}
            sizes["lookups"] = len(product.lookups())
            inner = product.write(Basis.of(squares[consumer.data], worth))
            entries.append({"name": consumer.name, "inner": inner} | sizes)
        drop_dead(copy.graph)
        return Outcome(copy, {"factored": entries}, Unchanged(model, context.feeds))


def wasted(entry: Mapping[str, Any], analysis: Analysis, kept: Mapping[Axis, int]) -> Iterator[str]:
    """The products that take as many multiplications as before, at these sizes; `entry` is of `Factor`."""
    for each in entry.get("factored", ()):
        atom, features, outputs = find(analysis.axes[each["inner"]][-1]), each["features"], each["outputs"]
        spent = kept.get(atom, features) * (features + outputs) + each["lookups"] * features**2
        if spent >= features * outputs:
            yield each["name"]


@dataclass(frozen=True)
class Basis:
    """x = z inverse, z = x forward; the entries of z matter in ascending order. Shape [features, features] each."""

    forward: Array
    inverse: Array

    @classmethod
    def of(cls, square: Array, worth: Array) -> Basis:
        """In which x, of these second moments, has orthogonal entries, and so are the errors of removing them."""
        lower = root(square, DAMPING)
        scale, vectors = np.linalg.eigh(lower.T @ worth @ lower)
        scale = np.sqrt(np.maximum(scale, LEAST * (scale[-1] if scale[-1] > 0 else 1.0)))
        return cls(np.linalg.solve(lower.T, vectors) * scale, (vectors / scale).T @ lower.T)

    def turned(self, rows: Array) -> Array:
        """Weights for x, shape [outputs, features], as weights for z, float32."""
        parts = [rows[i : i + OUTPUTS] @ self.inverse.T for i in range(0, len(rows), OUTPUTS)]
        return np.concatenate([part.astype(np.float32) for part in parts])


def _wide(model: Model, context: Context) -> Iterator[Consumer]:
    """Products that lose no outputs, by float32 weights of their own or by tables in which else rows are looked up.

    Bodies of control flow are not looked into, and what they read is left.
    """
    analysis = analyse(model, context.observation(model), context.keep)
    names, outer = Names(model.graph), {id(node) for node in model.graph.nodes}
    for consumer in find_consumers(analysis, made=True):
        node, weight = consumer.node, consumer.use.constant
        plain = node.op in ("MatMul", "Gemm") and weight.dtype == np.float32 and id(node) in outer
        stay = find(consumer.input_axis).static and not is_free(consumer.output_axis)
        if plain and stay and FEWEST <= consumer.features <= consumer.outputs[1] / WIDE:
            product = _Product(node, model.graph, names)
            known = (node.name, consumer.name, product.weight.name if product.weight else "")
            kept = any(fnmatchcase(name, pattern) for name in known for pattern in context.keep)
            inside = all(id(each) in outer for each in product.lookups())
            if product.is_free() and inside and not kept:
                yield consumer


class _Product:
    """A MatMul or Gemm, and where its constant weight is: its own input, or that of a Transpose before it."""

    def __init__(self, node: gs.Node, graph: gs.Graph, names: Names) -> None:
        self.node, self.graph, self.names, self.ends = node, graph, names, ends_of(graph)
        made = node.inputs[1].inputs
        turns = bool(made) and made[0].op == "Transpose" and len(node.inputs[1].outputs) == 1
        self.reader, self.slot = (made[0], 0) if turns else (node, 1)
        weight = self.reader.inputs[self.slot]
        self.weight = weight if isinstance(weight, gs.Constant) else None
        # Whether the constant is [outputs, features], as a table is.
        self.by_outputs = turns or (node.op == "Gemm" and bool(node.attrs.get("transB")))

    def lookups(self) -> list[gs.Node]:
        """The nodes that look rows of the weight up."""
        users = self.weight.outputs if self.weight is not None else []
        return [
            n
            for n in users
            if n.op == "Gather" and n.inputs[0] is self.weight and n.attrs.get("axis", 0) == 0
        ]

    def is_free(self) -> bool:
        """Whether all that reads the weight can read another."""
        lookups = self.lookups()
        alone = self.weight is not None and len(self.weight.outputs) == 1 + len(lookups)
        return alone and (self.by_outputs or not lookups)

    def write(self, basis: Basis) -> str:
        """Two products instead of one, lookups in the table included; the name of what is between them."""
        assert self.weight is not None
        lookups, stored = self.lookups(), values(self.weight)
        rows = basis.turned(stored if self.by_outputs else stored.T)
        falling = slice(None, None, -1)
        if not lookups:
            rows = rows[:, falling]
        array = np.ascontiguousarray(rows if self.by_outputs else rows.T)
        table = gs.Constant(self.names.new(f"{self.weight.name}_turned"), array)
        self.reader.inputs[self.slot] = self._columns(table) if lookups else table
        for node in lookups:
            node.inputs[0] = table
            self._behind(node, basis.forward.T)
        return self._before(basis.forward[:, falling])

    def _columns(self, table: gs.Constant) -> gs.Variable:
        """All columns of a table, the last first: a run of positions would be a slice, which shrinks with the table."""
        picks = gs.Constant(self.names.new(f"{table.name}_columns"), np.arange(table.shape[1])[::-1].copy())
        out = gs.Variable(self.names.new(f"{table.name}_read"), np.float32)
        self._insert("Gather", [table, picks], out, self.reader, {"axis": 1})
        return out

    def _before(self, matrix: Array) -> str:
        """The product reads its input times a matrix; a product of its own before it takes the matrix in."""
        data = self.node.inputs[0]
        maker = _linear(data.inputs[0] if data.inputs else None)
        if maker is not None and only_reader(data, self.ends) is self.node:
            data, matrix = maker.inputs[0], values(maker.inputs[1]).astype(np.float64) @ matrix
        inner = gs.Variable(self.names.new(f"{self.node.outputs[0].name}_inner"), np.float32)
        self._insert("MatMul", [data, self._weight(inner, matrix)], inner, self.node)
        self.node.inputs[0] = inner
        return str(inner.name)

    def _behind(self, node: gs.Node, matrix: Array) -> None:
        """Readers of a lookup read it times a matrix; a product that alone does takes the matrix in."""
        out = node.outputs[0]
        reader = _linear(only_reader(out, self.ends))
        if reader is not None and reader.inputs[0] is out:
            matrix, out = matrix @ values(reader.inputs[1]).astype(np.float64), reader.outputs[0]
            reader.outputs = []
        inner = gs.Variable(self.names.new(f"{out.name}_turned"), np.float32)
        node.outputs = [inner]
        self._insert("MatMul", [inner, self._weight(inner, matrix)], out, node, after=1)

    def _weight(self, tensor: gs.Tensor, matrix: Array) -> gs.Constant:
        return gs.Constant(self.names.new(f"{tensor.name}_weight"), np.ascontiguousarray(matrix, np.float32))

    def _insert(
        self,
        op: str,
        inputs: list[gs.Tensor],
        out: gs.Tensor,
        beside: gs.Node,
        attrs: dict[str, int] | None = None,
        after: int = 0,
    ) -> None:
        made = gs.Node(op, self.names.new(out.name), attrs or {}, inputs, [out])
        self.graph.nodes.insert(place_of(self.graph.nodes, beside) + after, made)


def _linear(node: gs.Node | None) -> gs.Node | None:
    """The node if it multiplies by a constant matrix."""
    known = node.inputs[1] if node is not None and node.op == "MatMul" else None
    return node if isinstance(known, gs.Constant) and len(known.shape) == 2 else None


def _second_moments(model: Model, wide: list[Consumer], context: Context) -> dict[str, Array]:
    """E[x^T x] of what each product reads, by its name; shape [features, features]."""
    fit, _ = hold_out(small_batches(context))
    names = list(dict.fromkeys(c.data for c in wide))
    stream = Stream(model, context, fit, later=names)
    share = max(1, -(-SAMPLES // len(fit)))
    found: dict[str, Array] = {}
    for name in names:
        total, count = np.zeros(()), 0
        for i, (data,) in enumerate(stream.reach(name)):
            rows = data.reshape(-1, data.shape[-1])
            rows = rows[pick(len(rows), share, stream.valid[i], [context.seed, i], name)].astype(np.float64)
            total, count = total + rows.T @ rows, count + len(rows)
        found[name] = np.asarray(total / max(count, 1))
    return found
