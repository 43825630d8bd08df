"""The model for fewer places: sizes, windows and constants set, its inputs made smaller in front of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.analysis.axes import Axis
from pruneopt.analysis.infer import Analysis
from pruneopt.analysis.witness import Scaled
from pruneopt.model import Model, makers
from pruneopt.passes.length.emit import Emit, order
from pruneopt.passes.length.extent.constants import resampled
from pruneopt.passes.length.extent.ends import End
from pruneopt.passes.length.extent.matrices import WAYS, Array, Way, linear, matrix, padded
from pruneopt.passes.length.extent.settle import Fixed, Settled
from pruneopt.passes.length.extent.windows import set_windows
from pruneopt.passes.length.writing import write_lengths
from pruneopt.passes.rewriting.edits import move_inside, read_instead
from pruneopt.passes.rewriting.names import Names

BACK: Mapping[str, Way] = {"resolution": linear, "frames": linear, "sequence": padded}


def written(analysis: Analysis, settled: Settled, computed: bool = False) -> Model:
    """The graph with every size of places set; its inputs and outputs hold fewer of them then.

    Args:
        analysis: of the whole graph.
        settled: the new sizes.
        computed: sizes are computed in the graph, so that it runs at both; constants and windows stay.
    """
    runs = analysis.seen.runs
    plain = replace(analysis, witnesses=[w for w in analysis.witnesses if not isinstance(w, Scaled)])
    sizes = {a: (a.size[0], *[n] * (runs - 1)) if computed else (n,) * runs for a, n in settled.sizes.items()}
    model = write_lengths(plain, sizes)
    for ends in (model.graph.inputs, model.graph.outputs):
        for tensor in ends:
            _declare(tensor, analysis.axes.get(tensor.name, []), settled, computed)
    if not computed:
        fit(model, analysis, settled)
    return model


def _declare(tensor: gs.Variable, axes: Sequence[Axis], settled: Settled, computed: bool) -> None:
    """The new shape of an input or output."""
    if tensor.shape is not None and any(map(settled.touched, axes)):
        tensor.shape = [
            size if not settled.touched(axis) else f"{tensor.name}_{i}" if computed else settled.size(axis)
            for i, (size, axis) in enumerate(zip(tensor.shape, axes, strict=True))
        ]


def fit(model: Model, analysis: Analysis, settled: Settled) -> None:
    """Constants and windows of a copy of the analysed graph, whose nodes still go by their outputs' names."""
    made = makers(model.graph)
    names = Names(model.graph)
    for use, constant in resampled(analysis, settled):
        constant.name = names.new(f"{constant.name}_fewer")
        made[use.node.outputs[0].name].inputs[use.slot] = constant
    windowed = [(made[n.outputs[0].name], *sizes) for n, *sizes in settled.windowed]
    set_windows(model.graph, [(n, old[-len(out) :], new[-len(out) :], out) for n, old, new, out in windowed])


def framed(model: Model, ends: Mapping[End, int], analysis: Analysis, settled: Settled) -> dict[str, str]:
    """Give inputs and outputs the shapes that they had: smaller in front of the model, larger again behind it.

    Returns:
        The tensors that take the place of inputs and outputs inside, by their names.

    Raises:
        Fixed: an output has places of a kind that cannot be had back.
    """
    emit = Emit(model)
    inside: dict[str, str] = {}
    graph = analysis.model.graph
    shapes = {t.name: t.shape for t in (*graph.inputs, *graph.outputs)}
    for tensor in list(model.graph.inputs):
        own = [(end, size) for end, size in ends.items() if end.tensor.name == tensor.name]
        if own:
            inside[tensor.name] = _shrunk(emit, tensor, own, analysis)
    for tensor in list(model.graph.outputs):
        axes = analysis.axes.get(tensor.name, [])
        if any(map(settled.touched, axes)):
            inside[tensor.name] = _regrown(emit, tensor, axes, settled)
    for tensor in (*model.graph.inputs, *model.graph.outputs):
        tensor.shape = shapes[tensor.name]
    order(model)
    return inside


def _shrunk(emit: Emit, tensor: gs.Variable, own: Sequence[tuple[End, int]], analysis: Analysis) -> str:
    readers = list(tensor.outputs)
    small: gs.Tensor = tensor
    rank = len(analysis.axes[tensor.name])
    for end, size in own:
        mixing = WAYS[end.role][0](end.axis.size[0], size)
        small = _along(emit, small, end.dim, rank, mixing)
    small.dtype = tensor.dtype
    read_instead(tensor, small, readers)
    return str(small.name)


def overhead(analysis: Analysis, ends: Mapping[End, int]) -> int:
    """Multiply-accumulates of making the inputs smaller, at the larger of the observed sizes."""
    total, now = 0, {e.tensor.name: [a.size[-1] for a in analysis.axes[e.tensor.name]] for e in ends}
    for end, size in ends.items():
        sizes, old = now[end.tensor.name], end.axis.size[-1]
        sizes[end.dim] = size
        total += prod(sizes) * old if end.role == "resolution" else 0
    return total


def _along(emit: Emit, x: gs.Tensor, dim: int, rank: int, mixing: Array) -> gs.Tensor:
    """A matrix along one dimension: a Gather where it only picks."""
    picked = mixing.argmax(1)
    if np.array_equal(np.eye(mixing.shape[1])[picked], mixing):
        if np.array_equal(picked, np.arange(len(picked))):
            return emit.slice(x, dim, [0], [len(picked)])
        return emit.op("Gather", x, picked, axis=dim)
    if dim == rank - 2:
        return emit.op("MatMul", emit.like(emit.tensor(mixing), x), x)
    turn = [i for i in range(rank) if i != dim] + [dim]
    turned = emit.op("MatMul", emit.transpose(x, turn), emit.like(emit.tensor(mixing.T), x))
    return emit.transpose(turned, [turn.index(i) for i in range(rank)])


def _regrown(emit: Emit, tensor: gs.Variable, axes: Sequence[Axis], settled: Settled) -> str:
    """An output keeps its name, size and type."""
    kind = tensor.dtype
    if kind is not None and np.dtype(kind).kind not in "fV":
        raise Fixed(f"the output '{tensor.name}' has a whole number for each place")
    inner = move_inside(tensor, emit.names.new(f"{tensor.name}_fewer"))
    whole: gs.Tensor = inner
    for dim, axis in enumerate(axes):
        if settled.touched(axis):
            whole = _along(emit, whole, dim, len(axes), matrix(axis, settled, BACK, back=True))
    emit.op("Identity", whole, out=tensor)
    tensor.dtype = kind
    return str(inner.name)


__all__ = ["fit", "framed", "written"]
