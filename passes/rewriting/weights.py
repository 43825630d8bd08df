"""Puts new weights and biases into a node; a bias that is not there is added."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.arrays import Array
from pruneopt.model import Model, values
from pruneopt.passes.rewriting.edits import place_of
from pruneopt.passes.rewriting.names import Names


def set_weight(model: Model, node: gs.Node, weight: Array, slot: int = 1) -> None:
    """An input of `node` becomes `weight`, under the name of the constant that it takes the place of."""
    node.inputs[slot] = _replacement(model, node.inputs[slot], weight)


def bias_of(node: gs.Node) -> Array | None:
    """The constant that is added to each output channel, float64, shape [channels]; None where there is none."""
    found = _bias_place(node)
    return None if found is None else values(found[0].inputs[found[1]]).astype(np.float64).reshape(-1)


def set_bias(model: Model, node: gs.Node, bias: Array) -> gs.Node | None:
    """Set what is added to each output channel, shape [channels].

    1. A constant bias of the node, or of an Add that alone reads its output, is replaced.
    2. A Conv or Gemm without a bias gets one.
    3. Otherwise an Add is put behind the node, and returned.
    """
    found = _bias_place(node)
    weight_type = values(node.inputs[1]).dtype
    if found is not None:
        holder, slot = found
        old = holder.inputs[slot]
        holder.inputs[slot] = _replacement(model, old, bias.reshape(old.shape).astype(old.dtype))
        return None
    constant = gs.Constant(Names(model.graph).new(f"{node.outputs[0].name}_bias"), bias.astype(weight_type))
    if node.op in ("Conv", "Gemm") and (len(node.inputs) < 3 or not node.inputs[2].name):
        node.inputs = [*list(node.inputs)[:2], constant]
        return None
    if node.op == "Conv":
        constant.values = values(constant).reshape(-1, *[1] * (values(node.inputs[1]).ndim - 2))
    return _add_behind(model, node, constant)


def _bias_place(node: gs.Node) -> tuple[gs.Node, int] | None:
    """(node, input) that holds the bias of `node` as a constant vector."""
    if node.op in ("Conv", "Gemm"):
        held = len(node.inputs) > 2 and isinstance(node.inputs[2], gs.Constant)
        return (node, 2) if held and _is_vector(node.inputs[2], node) else None
    out = node.outputs[0]
    if len(out.outputs) != 1 or out.outputs[0].op != "Add":
        return None
    add = out.outputs[0]
    slot = next((i for i, t in enumerate(add.inputs) if isinstance(t, gs.Constant)), None)
    return None if slot is None or not _is_vector(add.inputs[slot], node) else (add, slot)


def _is_vector(constant: gs.Constant, node: gs.Node) -> bool:
    """Whether a constant holds one number per output channel, all in its last dimension."""
    weight = values(node.inputs[1]).shape
    channels = weight[0] if node.op == "Conv" or node.attrs.get("transB") else weight[-1]
    shape = tuple(constant.shape)
    return bool(shape) and shape[-1] == channels and set(shape[:-1]) <= {1}


def _replacement(model: Model, old: gs.Constant, value: Array) -> gs.Constant:
    """A constant in place of one use of `old`; it has the same name unless others use `old` too."""
    name = old.name if len(old.outputs) == 1 else Names(model.graph).new(f"{old.name}_refit")
    return gs.Constant(name, np.ascontiguousarray(value))


def _add_behind(model: Model, node: gs.Node, constant: gs.Constant) -> gs.Node:
    out = node.outputs[0]
    inner = gs.Variable(Names(model.graph).new(f"{out.name}_unbiased"), out.dtype)
    node.outputs = [inner]
    add = gs.Node("Add", inner.name, {}, [inner, constant], [out])
    nodes = model.graph.nodes
    nodes.insert(place_of(nodes, node) + 1, add)
    return add
