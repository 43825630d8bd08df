"""Applies a change of basis to a residual stream: gains into the readers, means off the writers, then the rotation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.analysis.infer import ConstantUse
from pruneopt.arrays import Array
from pruneopt.model import Model, values
from pruneopt.passes.rewriting.edits import place_of
from pruneopt.passes.rewriting.names import Names
from pruneopt.passes.rewriting.weights import bias_of, set_bias
from pruneopt.passes.rotation.norms import Norm, as_rms
from pruneopt.passes.rotation.streams import Residual, Scale
from pruneopt.passes.statistics.consumers import Consumer

ROWS = 1 << 22  # entries of a constant that are changed at once

Change = Callable[[Array], Array]


class Editor:
    """Changes dimensions of constants of a copied graph; what is shared and changes alike stays shared."""

    def __init__(self, model: Model, twin: Mapping[int, gs.Node]) -> None:
        self.model = model
        self.twin = twin
        self.names = Names(model.graph)
        self._made: dict[tuple[int, int, str], gs.Constant] = {}
        self._old: list[gs.Constant] = []  # so that no `id` is used again
        self._origin: dict[str, str] = {}

    def constant(self, use: ConstantUse) -> gs.Constant:
        """What the constant has become so far."""
        found: gs.Constant = self.twin[id(use.node)].inputs[use.slot]
        return found

    def apply(self, use: ConstantUse, dim: int, change: Change, label: str) -> None:
        """Change a constant, which `change` gets with the dimension last, in float64. Equal labels, equal changes."""
        node, old = self.twin[id(use.node)], self.constant(use)
        key = (id(old), dim, label)
        if key not in self._made:
            name = self.names.new(f"{old.name}_turned")
            self._made[key] = gs.Constant(name, _changed(values(old), dim, change))
            self._old.append(old)
            self._origin[name] = self._origin.get(old.name, old.name)
        node.inputs[use.slot] = self._made[key]
        if old.name in self._origin and not old.outputs:  # a step on the way, that nobody waits for
            old.values = np.empty(0, np.float32)
            self._made = {key: made for key, made in self._made.items() if made is not old}

    def restore_names(self) -> None:
        """What a constant became takes its name, where nothing uses the constant itself any more."""
        graph = self.model.graph
        graphs = (graph, *graph.subgraphs(recursive=True))
        held = {t.name: t for g in graphs for n in g.nodes for t in n.inputs}
        taken = held.keys() | {t.name for t in (*graph.inputs, *graph.outputs)}
        for name, tensor in held.items():
            origin = self._origin.get(name)
            if origin is not None and origin not in taken:
                tensor.name = origin
                taken.add(origin)


def _changed(array: Array, dim: int, change: Change) -> Array:
    """A change along one dimension, some rows at a time."""
    moved = np.moveaxis(array, dim, -1)
    if moved.ndim < 2:
        return change(moved.astype(np.float64)).astype(array.dtype)
    found = np.empty_like(array)
    wanted = np.moveaxis(found, dim, -1)
    rows = max(1, ROWS * len(moved) // max(moved.size, 1))
    for i in range(0, len(moved), rows):
        wanted[i : i + rows] = change(moved[i : i + rows].astype(np.float64))
    return found


class Spread:
    """How the normalised stream is spread: C = E[z z^T] over all norms.

    As SliceGPT (2401.15024), but each token counts by its length after the norm, so that all norms count alike.
    """

    def __init__(self, residual: Residual) -> None:
        self.residual = residual
        self._sum = np.zeros((residual.size, residual.size))

    def add(self, norm: Norm, rows: Array) -> None:
        """Rows of a norm's input, shape [rows, size]."""
        z = norm.scaled(rows)
        self._sum += z.T @ z

    def basis(self) -> Array:
        """Principal directions, most important first, as columns. Shape [size, size]."""
        _, vectors = np.linalg.eigh(self._sum)
        found: Array = np.ascontiguousarray(vectors[:, ::-1])
        return found * np.where(found.sum(0) < 0, -1.0, 1.0)  # a sign that does not hang on the solver


def turn(residual: Residual, basis: Array, editor: Editor) -> None:
    """Rewrite all constants and norms around the atom; what the model computes stays the same."""
    size = residual.size
    for scale in residual.scales:
        take_over(scale, size, editor)
    for region in residual.regions:
        for use, dim in region.writes if region.centred else ():
            editor.apply(use, dim, lambda x: x - x.mean(-1, keepdims=True), "centre")
    for norm, readers in residual.absorbed.items():
        _absorb(norm, readers, size, editor)
    inside = {id(node) for norm in residual.norms for node in norm.nodes}
    inside |= {id(scale.node) for scale in residual.scales}
    for use in residual.place.uses.values():
        for dim in residual.place.dims(use) if id(use.node) not in inside else ():
            editor.apply(use, dim, lambda x: x @ basis, f"turn {id(residual)}")
    for norm in residual.norms:
        _plain(norm, residual, basis, editor)


def take_over(scale: Scale, size: int, editor: Editor) -> None:
    """(x W + b) s = x (W s) + b s; the product becomes one with 1."""
    factor = np.broadcast_to(values(scale.factor.constant).astype(np.float64).reshape(-1), (size,))
    for use, dim in scale.writes:
        editor.apply(use, dim, lambda x: x * factor, f"scale {scale.node.outputs[0].name}")
    node = editor.twin[id(scale.node)]
    source = node.inputs[1 - scale.factor.slot]
    out, maker = node.outputs[0], source.inputs[0]
    if len(source.outputs) == 1 and len(maker.outputs) == 1:
        node.inputs.clear()
        node.outputs.clear()
        maker.outputs[0] = out
        editor.model.graph.nodes = [n for n in editor.model.graph.nodes if n is not node]
        return
    one = np.ones((), values(scale.factor.constant).dtype)
    node.inputs[scale.factor.slot] = gs.Constant(editor.names.new(f"{out.name}_one"), one)


def _absorb(norm: Norm, readers: Sequence[Consumer], size: int, editor: Editor) -> None:
    """W (D z + b) = (W D) z + W b."""
    gain, shift = norm.gain(size), norm.shift(size)
    for reader in readers:
        node = editor.twin[id(reader.node)]
        if shift.any():
            weight = reader.as_matrix(values(node.inputs[1]))[0]
            added = weight.reshape(len(weight), size, -1).sum(-1) @ shift
            bias = bias_of(node)
            set_bias(editor.model, node, added if bias is None else bias + added)
        dim = next(d for d, axis in enumerate(reader.use.axes) if axis is reader.input_axis)
        editor.apply(reader.use, dim, lambda x: x * gain, f"gain of {norm.output}")


def _plain(norm: Norm, residual: Residual, basis: Array, editor: Editor) -> None:
    """The norm without mean, gain and shift; a gain that nobody takes over becomes a matrix in the new basis."""
    size = residual.size
    gain, shift = norm.gain(size), norm.shift(size)
    last = editor.twin[id(norm.last)]
    slot = norm.slot
    if norm.centred:
        last = as_rms(editor.model, last, editor.names)
        slot = next(i for i, t in enumerate(last.inputs) if isinstance(t, gs.Constant))
    if slot is not None:
        taken = norm in residual.absorbed or norm in residual.mapped
        old = last.inputs[slot]
        whole = np.full((size,), 1.0 if taken else gain[0], values(old).dtype)
        last.inputs[slot] = gs.Constant(editor.names.new(f"{norm.output}_gain"), whole)
    if norm in residual.mapped:
        region = residual.mapped[norm]
        centre = np.eye(size) - region.centred / size
        matrix = basis.T @ (gain[:, None] * centre) @ basis
        _map_behind(last, matrix, shift @ centre @ basis, editor)


def _map_behind(node: gs.Node, matrix: Array, shift: Array, editor: Editor) -> None:
    """y -> y matrix + shift."""
    out = node.outputs[0]
    kind = np.float32 if not isinstance(out.dtype, np.dtype) else out.dtype
    inner = node.outputs[0] = gs.Variable(editor.names.new(f"{out.name}_normed"), kind)
    weight = gs.Constant(editor.names.new(f"{out.name}_basis"), matrix.astype(kind))
    bias = gs.Constant(editor.names.new(f"{out.name}_shift"), shift.astype(kind))
    mapped = gs.Variable(editor.names.new(f"{out.name}_mapped"), kind) if shift.any() else out
    made = [gs.Node("MatMul", editor.names.new(f"{out.name}_map"), {}, [inner, weight], [mapped])]
    if shift.any():
        made.append(gs.Node("Add", editor.names.new(f"{out.name}_move"), {}, [mapped, bias], [out]))
    nodes = editor.model.graph.nodes
    at = place_of(nodes, node)
    nodes[at + 1 : at + 1] = made
