"""Gates become part of the weights: what a contraction sums is scaled in its constant operand."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from pruneopt.analysis.axes import Axis, find
from pruneopt.analysis.groups import Group
from pruneopt.analysis.infer import Analysis
from pruneopt.analysis.masks import Masks, mask_of
from pruneopt.analysis.op import Use
from pruneopt.arrays import Array
from pruneopt.model import Model, makers, values
from pruneopt.passes.learning.masks.gates import gate_of, gated_uses
from pruneopt.passes.rewriting.names import Names
from pruneopt.passes.rewriting.shrink import compress

Scores = dict[Axis, npt.NDArray[np.float64]]


def foldable(group: Group, analysis: Analysis) -> bool:
    """Whether every contraction of a group has a weight to take its gates."""
    return all(_partner(use, analysis) is not None for use in gated_uses(analysis, [group.atom]))


def _partner(use: Use, analysis: Analysis) -> Use | None:
    """The same contraction in its constant operand."""
    for other in analysis.contractions:
        same = other.node is use.node and other.label == use.label and find(other.axis) is find(use.axis)
        if same and isinstance(other.node.inputs[other.slot], gs.Constant):
            return other
    return None


def fold(small: Model, analysis: Analysis, masks: Masks, gates: Scores) -> Model:
    """A copy of the shrunk model whose weights are scaled by the gates of the entries that stay."""
    import torch

    made = small.copy()
    nodes = makers(made.graph)
    tensors = {atom: torch.from_numpy(gate) for atom, gate in gates.items()}
    for use in gated_uses(analysis, list(gates)):
        partner = _partner(use, analysis)
        if partner is None:
            continue
        node = nodes[partner.node.outputs[0].name]
        old = node.inputs[partner.slot]
        scale = gate_of(partner.axis, tensors).numpy()[mask_of(partner.axis, masks)]
        shape = [-1 if d == partner.dim else 1 for d in range(values(old).ndim)]
        replace(made, node, partner.slot, values(old) * scale.reshape(shape))
    return made


def put(small: Model, analysis: Analysis, masks: Masks, weights: Mapping[str, Array]) -> Model:
    """A copy of the shrunk model with other weights, which come by name and at full size."""
    made = small.copy()
    nodes = makers(made.graph)
    for use in analysis.uses:
        if use.constant.name in weights and use.node.outputs[0].name in nodes:
            keeps = [mask_of(axis, masks) for axis in use.axes]
            new = compress(weights[use.constant.name], keeps)
            replace(made, nodes[use.node.outputs[0].name], use.slot, new)
    return made


def replace(model: Model, node: gs.Node, slot: int, value: Array) -> None:
    """An input of a node becomes this constant, in the old one's type; others that use the old one keep it."""
    old = node.inputs[slot]
    name = old.name if len(old.outputs) == 1 else Names(model.graph).new(f"{old.name}_learned")
    node.inputs[slot] = gs.Constant(name, np.ascontiguousarray(value.astype(old.dtype)))
