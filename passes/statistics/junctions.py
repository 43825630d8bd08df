"""Junctions: the sums through which layers write to a residual stream, or the layers' own outputs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.analysis.axes import Axis, atoms
from pruneopt.analysis.infer import Analysis
from pruneopt.arrays import Array
from pruneopt.passes.rotation.norms import RMS, written_out
from pruneopt.passes.statistics.activations import Activation, activation_of
from pruneopt.passes.statistics.consumers import Consumer

NORMS = RMS | {"LayerNormalization", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization"}
LEAST = 1e-3  # of a typical row's square: what is shorter counts no more than that


@dataclass(frozen=True)
class Junction:
    """Where a layer writes: `total` is the layer's biased output, plus `skip` where there is one.

    Attributes:
        total, skip: names of tensors.
        activation: what reads the total, where nothing else does.
        under_norm: norms scale what is written before others read it.
    """

    total: str
    skip: str | None
    activation: Activation | None = None
    under_norm: bool = False

    @property
    def seen(self) -> list[str]:
        """The total, and what the activation makes of it."""
        return [self.total, *([self.activation.name] if self.activation else [])]

    def weights(self, totals: Array) -> Array | None:
        """How much rows of the total [groups, count, outputs] count; shape [count], None where all count alike.

        A norm gives all rows one length: what moves a long one is little to those behind. In language models the first
        token may be a thousand times as long as others.
        """
        if not self.under_norm:
            return None
        square = np.square(totals, dtype=np.float32).mean(axis=(0, 2))
        return np.asarray(1 / np.maximum(square, LEAST * float(np.median(square)) or 1.0))


def junctions_of(consumers: Iterable[Consumer], analysis: Analysis) -> dict[str, Junction]:
    """By name where each consumer writes: behind its bias an `Add` of a tensor of the same shape, or nothing else."""
    normed = _normed(analysis)
    return {c.name: _junction(c, analysis, not normed.isdisjoint(atoms(c.output_axis))) for c in consumers}


def _junction(consumer: Consumer, analysis: Analysis, under_norm: bool) -> Junction:
    out = consumer.node.outputs[0]
    graph = analysis.model.graph
    add = _only_add(out)
    if add is not None and any(isinstance(t, gs.Constant) for t in add.inputs):
        out = add.outputs[0]
        add = _only_add(out)
    if add is None:
        return Junction(out.name, None, activation_of(out, graph), under_norm)
    other = next((t for t in add.inputs if t is not out), None)
    shapes = analysis.seen.shapes
    if not isinstance(other, gs.Variable) or shapes.get(other.name) != shapes.get(out.name):
        return Junction(out.name, None, None, under_norm)
    total = add.outputs[0]
    return Junction(total.name, other.name, activation_of(total, graph), under_norm)


def _normed(analysis: Analysis) -> set[Axis]:
    """Atoms over which norms run along the last dimension, each row for itself."""
    found: set[Axis] = set()
    for node in analysis.model.graph.nodes:
        norm = written_out(node) if node.op == "ReduceMean" else None
        data = norm.data if norm else node.inputs[0].name if node.op in NORMS else ""
        axes = analysis.axes.get(data, [])
        if axes and (norm or node.attrs.get("axis", -1) in (-1, len(axes) - 1)):
            found.update(atoms(axes[-1]))
    return found


def _only_add(tensor: gs.Tensor) -> gs.Node | None:
    return tensor.outputs[0] if len(tensor.outputs) == 1 and tensor.outputs[0].op == "Add" else None
