"""Norms over an axis: LayerNormalization, and RMSNorm as one op or written out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.arrays import Array
from pruneopt.model import Model, values
from pruneopt.passes.rewriting.edits import place_of
from pruneopt.passes.rewriting.names import Names
from pruneopt.passes.rotation.linear import Place

RMS = {"RMSNormalization", "SimplifiedLayerNormalization"}


@dataclass(frozen=True, eq=False)
class Norm:
    """x -> (x - mean x) / sqrt(mean (x - mean x)^2 + epsilon) * gain + shift; no mean where it is not centred.

    Attributes:
        nodes: all that touch the axis; the last makes the output and holds the gain.
        data: name of its input.
        centred: it takes the mean off.
        epsilon: under the root.
        slot: input of the last node that is the gain; None where there is none.
    """

    nodes: tuple[gs.Node, ...]
    data: str
    centred: bool
    epsilon: float
    slot: int | None

    @property
    def last(self) -> gs.Node:
        """The node that makes the output."""
        return self.nodes[-1]

    @property
    def output(self) -> str:
        """Name of its output."""
        return str(self.last.outputs[0].name)

    def gain(self, size: int) -> Array:
        """What the normalised entries are multiplied by, float64, shape [size]."""
        if self.slot is None:
            return np.ones(size)
        found = values(self.last.inputs[self.slot]).astype(np.float64).reshape(-1)
        return np.array(np.broadcast_to(found, (size,)))

    def shift(self, size: int) -> Array:
        """What is added to them, float64, shape [size]."""
        inputs = self.last.inputs
        if not self.centred or len(inputs) < 3 or not inputs[2].name:
            return np.zeros(size)
        found = values(inputs[2]).astype(np.float64).reshape(-1)
        return np.array(np.broadcast_to(found, (size,)))

    def scaled(self, data: Array) -> Array:
        """The normalised rows of its input, before gain and shift; float32, over the last dimension."""
        x = data.astype(np.float32)
        if self.centred:
            x = x - x.mean(-1, keepdims=True)
        return np.asarray(x / np.sqrt(np.square(x).mean(-1, keepdims=True) + self.epsilon))


def find_norms(place: Place) -> Iterator[Norm]:
    """All norms over the place's atom that are understood."""
    for node in place.analysis.model.graph.nodes:
        if node.op == "LayerNormalization" or node.op in RMS:
            found = _fused(node, place)
        elif node.op == "ReduceMean" and (id(node), 0) in place.summed:
            found = written_out(node)
        else:
            continue
        rank = len(place.analysis.axes.get(found.data, [])) if found else 0
        if found is not None and rank and place.dim(found.data) == rank - 1:
            yield found


def _fused(node: gs.Node, place: Place) -> Norm | None:
    rank = len(place.analysis.axes.get(node.inputs[0].name, []))
    axis = node.attrs.get("axis", -1)
    alone = not any(t.name and t.outputs for t in node.outputs[1:])
    constant = all(isinstance(t, gs.Constant) or not t.name for t in node.inputs[1:])
    if not rank or axis % rank != rank - 1 or not alone or not constant:
        return None
    epsilon = float(node.attrs.get("epsilon", 1e-5))
    return Norm((node,), node.inputs[0].name, node.op not in RMS, epsilon, 1)


def written_out(mean: gs.Node) -> Norm | None:
    """The RMSNorm whose ReduceMean this is: x / sqrt(mean(x^2) + epsilon), times a constant."""
    square = _maker(mean.inputs[0])
    if square is None or not _squares(square):
        return None
    add = _only(mean, "Add")
    root = _only(add, "Sqrt")
    epsilon = next((t for t in add.inputs if isinstance(t, gs.Constant)), None) if add else None
    if root is None or epsilon is None or values(epsilon).size != 1:
        return None
    source = square.inputs[0]
    scale = _scale(root, source)
    if scale is None:
        return None
    cast = _only(scale, "Cast")
    gain = _only(cast or scale, "Mul")
    slot = _constant_slot(gain)
    behind = [] if slot is None or gain is None else [cast, gain] if cast else [gain]
    nodes = tuple(n for n in (square, mean, scale, *behind) if n is not None)
    return Norm(nodes, str(source.name), False, float(values(epsilon).reshape(-1)[0]), slot)


def _scale(root: gs.Node, source: gs.Tensor) -> gs.Node | None:
    """The node that divides `source` by the root: one Div, or a product with its reciprocal."""
    divided = _only(root, "Div")
    if divided is not None and divided.inputs[0] is source:
        return divided
    one = divided.inputs[0] if divided is not None else None
    unit = isinstance(one, gs.Constant) and bool((values(one) == 1).all())
    inverse = divided if unit else _only(root, "Reciprocal")
    scale = _only(inverse, "Mul")
    return scale if scale is not None and any(t is source for t in scale.inputs) else None


def _squares(node: gs.Node) -> bool:
    if node.op == "Mul":
        return bool(node.inputs[0] is node.inputs[1])
    power = node.inputs[1] if node.op == "Pow" else None
    return isinstance(power, gs.Constant) and bool((values(power) == 2).all())


def _maker(tensor: gs.Tensor) -> gs.Node | None:
    return tensor.inputs[0] if len(tensor.inputs) == 1 and len(tensor.outputs) == 1 else None


def _only(node: gs.Node | None, op: str) -> gs.Node | None:
    """The one node that reads this node's output, if it is an `op`."""
    if node is None or len(node.outputs[0].outputs) != 1:
        return None
    found: gs.Node = node.outputs[0].outputs[0]
    return found if found.op == op else None


def _constant_slot(node: gs.Node | None) -> int | None:
    if node is None:
        return None
    return next((i for i, t in enumerate(node.inputs) if isinstance(t, gs.Constant)), None)


def as_rms(model: Model, node: gs.Node, names: Names) -> gs.Node:
    """Put an RMSNorm with a gain of ones in the place of a LayerNormalization node; returns the node that makes the
    output. Below opset 23, where there is no such op, in the form that runtimes know and fuse."""
    data, out = node.inputs[0], node.outputs[0]
    kind = values(node.inputs[1]).dtype
    ones = gs.Constant(names.new(f"{out.name}_gain"), np.ones(values(node.inputs[1]).shape, kind))
    epsilon = float(node.attrs.get("epsilon", 1e-5))
    node.outputs = []
    if model.opset() >= 23:
        made = [gs.Node("RMSNormalization", node.name, {"axis": -1, "epsilon": epsilon}, [data, ones], [out])]
    else:
        made = _spelt(model, data, out, ones, epsilon, names)
    nodes = model.graph.nodes
    at = place_of(nodes, node)
    node.inputs = []
    nodes[at : at + 1] = made
    return made[-1]


def _spelt(
    model: Model, data: gs.Tensor, out: gs.Tensor, ones: gs.Constant, epsilon: float, names: Names
) -> list[gs.Node]:
    kind = values(ones).dtype
    made: list[gs.Node] = []

    def step(op: str, *inputs: gs.Tensor, output: gs.Tensor | None = None, **attrs: Any) -> gs.Tensor:
        name = names.new(f"{out.name}_{op.lower()}")
        result = output if output is not None else gs.Variable(name, kind)
        made.append(gs.Node(op, name, attrs, list(inputs), [result]))
        return result

    def number(value: Any, wish: str, dtype: Any = kind) -> gs.Constant:
        return gs.Constant(names.new(f"{out.name}_{wish}"), np.array(value, dtype))

    square = step("Pow", data, number(2, "two"))
    if model.opset() >= 18:
        mean = step("ReduceMean", square, number([-1], "axes", np.int64), keepdims=1)
    else:
        mean = step("ReduceMean", square, axes=[-1], keepdims=1)
    root = step("Sqrt", step("Add", mean, number(epsilon, "epsilon")))
    step("Mul", step("Div", data, root), ones, output=out)
    return made
