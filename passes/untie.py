"""Gives every product that shares its weight with other nodes one of its own, so that it can change by itself.

The classifier of a language model is often its embedding table, turned round. Untied, it can become sparse or lose rank
while words are looked up in the table as before. Nothing changes but the size of the file: by the copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.arrays import Array
from pruneopt.model import Model, values
from pruneopt.passes.base import Outcome
from pruneopt.passes.claims import Unchanged
from pruneopt.passes.context import Context
from pruneopt.passes.exact.identities import drop_dead
from pruneopt.passes.rewriting.names import Names

PRODUCTS = ("MatMul", "Gemm", "Conv")


@dataclass(frozen=True)
class Untie:
    """Copy weights that a MatMul, Gemm or Conv shares with other nodes.

    Attributes:
        only: glob pattern of weight, node or output names.
    """

    only: str = "*"

    def run(self, model: Model, context: Context) -> Outcome:
        """The model with a weight for each product; exact."""
        copy = model.copy()
        names = Names(copy.graph)
        untied = []
        for node, slot, weight in list(shared(copy.graph)):
            if any(fnmatchcase(each, self.only) for each in (weight.name, node.name, node.outputs[0].name)):
                array = _as_read(node.inputs[slot], weight)
                node.inputs[slot] = gs.Constant(names.new(f"{weight.name}_untied"), array)
                untied.append({"weight": weight.name, "node": node.name, "bytes": array.nbytes})
        drop_dead(copy.graph)
        return Outcome(copy, {"untied": untied}, Unchanged(model, context.feeds) if untied else None)


def shared(graph: gs.Graph) -> Iterator[tuple[gs.Node, int, gs.Constant]]:
    """Products, which of their inputs is a matrix that others read, too, and the constant that it is."""
    for node in graph.nodes:
        for slot, tensor in enumerate(node.inputs[:2] if node.op in PRODUCTS else ()):
            weight = _constant(tensor)
            if weight is not None and max(len(tensor.outputs), len(weight.outputs)) > 1:
                yield node, slot, weight


def _constant(tensor: gs.Tensor) -> gs.Constant | None:
    """The constant that a tensor is, or that it is turned round."""
    maker = tensor.inputs[0] if tensor.inputs else None
    if maker is not None and maker.op == "Transpose":
        tensor = maker.inputs[0]
    return tensor if isinstance(tensor, gs.Constant) and len(tensor.shape) > 1 else None


def _as_read(tensor: gs.Tensor, weight: gs.Constant) -> Array:
    """A copy of the array that a product reads."""
    turned = (
        values(weight)
        if tensor is weight
        else np.transpose(values(weight), tensor.inputs[0].attrs.get("perm"))
    )
    copied: Array = np.array(turned, order="C")
    return copied
