"""The tensors of a model that is being filled, by the names that they have in the graph with gaps."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from pruneopt.model import Model
from pruneopt.passes.rewriting.edits import read_instead


class Tensors:
    """Finds tensors of the written model, and puts values into gaps."""

    def __init__(self, model: Model) -> None:
        self._known = model.graph.tensors()

    def named(self, name: str) -> gs.Tensor:
        """The tensor of a name."""
        return self._known[name]

    def of(self, tensor: gs.Tensor) -> gs.Tensor:
        """The tensor of the written model for one of the marked model."""
        if tensor.name not in self._known and isinstance(tensor, gs.Constant):
            self._known[tensor.name] = tensor
        return self._known[tensor.name]

    def put(self, hole: gs.Variable, value: gs.Tensor) -> None:
        """Everything that reads the hole reads `value`."""
        target = self._known.get(hole.name)
        self._known[hole.name] = value
        if target is None:
            return
        read_instead(target, value)
