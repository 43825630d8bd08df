"""Where a module came from: the model, and which of its constants each parameter and buffer is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx_graphsurgeon as gs
from torch import fx

from pruneopt.errors import PruneoptError, UsageError
from pruneopt.model import Model

META = "pruneopt"  # key in `GraphModule.meta`, which copies and transformations of the module keep
TENSOR = "tensor"  # key in `fx.Node.meta`: name of the model's tensor


@dataclass(frozen=True, eq=False)
class Origin:
    """What connects a module with its model.

    Attributes:
        model: the model, with the weights as they were.
        weights: path of every parameter and buffer -> the constant of `model` that it is.
        inputs: name of every input of the model -> the argument of `forward`.
        outputs: names of the tensors that `forward` returns, in order.
    """

    model: Model
    weights: dict[str, gs.Constant]
    inputs: dict[str, str]
    outputs: list[str]

    def path(self, name: str) -> str:
        """The path of a constant by its name in the model. Raises UsageError where there is none."""
        for path, constant in self.weights.items():
            if constant.name == name:
                return path
        raise UsageError(f"the module has no weight '{name}'")

    def __deepcopy__(self, memo: dict[int, Any]) -> Origin:
        return self  # it never changes


def origin_of(module: fx.GraphModule) -> Origin:
    """Where a module came from. Raises PruneoptError where `to_torch` has not made it."""
    found = getattr(module, "meta", {}).get(META)
    if not isinstance(found, Origin):
        raise PruneoptError("this module was not made by Model.to_torch: export it with example inputs")
    return found


def node_of(module: fx.GraphModule, tensor: str) -> fx.Node:
    """The node that computes, or holds, a tensor of the model's main graph. Raises UsageError where none does."""
    for node in module.graph.nodes:
        if node.meta.get(TENSOR) == tensor:
            found: fx.Node = node
            return found
    raise UsageError(f"the module has no tensor '{tensor}'")
