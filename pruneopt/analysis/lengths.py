"""Shapes told without the tensor: from known sizes, and from the sizes of the model's inputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from pruneopt.analysis.axes import Axis, find
from pruneopt.analysis.infer import Analysis

Source = int | tuple[str, int]  # a known size, or a dimension of an input


@dataclass(frozen=True)
class Told:
    """A Shape node whose result follows from other places.

    Attributes:
        node: the node.
        sources: for each size that it returns, the places where it can be had.
    """

    node: gs.Node
    sources: tuple[tuple[Source, ...], ...]


def told_shapes(analysis: Analysis) -> Iterator[Told]:
    """The Shape nodes all of whose sizes are known, or are a dimension of an input of the model."""
    places: dict[Axis, tuple[Source, ...]] = {}
    for tensor in analysis.model.graph.inputs:
        for dim, axis in enumerate(analysis.axes.get(tensor.name, [])):
            places[find(axis)] = (*places.get(find(axis), ()), (tensor.name, dim))
    for node in analysis.model.graph.nodes:
        axes = analysis.axes.get(node.inputs[0].name) if node.op == "Shape" else None
        if axes is None:
            continue
        asked = axes[slice(node.attrs.get("start", 0), node.attrs.get("end"))]
        found = [(axis.size[0],) if axis.static else places.get(find(axis), ()) for axis in asked]
        if all(found):
            yield Told(node, tuple(found))
