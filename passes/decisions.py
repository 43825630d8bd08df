"""Decisions: ops that make one of several results of numbers that may lie arbitrarily close together.

A sum taken in another order differs in its last digit. Where two scores are nearly equal that decides which of
them is chosen, and all that follows may differ, though neither graph is wrong. So two graphs are equal if what
goes into their decisions is equal, and with the decisions of the one all that comes out is equal, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.arrays import Array
from pruneopt.model import Model

if TYPE_CHECKING:
    from pruneopt.passes.claims import Claim

Values = Mapping[str, Any]

ALL = "ArgMax ArgMin Cast Ceil DynamicQuantizeLinear Equal Floor Greater GreaterOrEqual Hardmax Less".split()
ALL += "LessOrEqual NonMaxSuppression NonZero QuantizeLinear Round Sign".split()
OUTPUTS = {"TopK": slice(1, 2), **dict.fromkeys(ALL, slice(None))}  # those that jump
ROUNDED = "QLinear"  # ops so named round what they return


class Decisions:
    """The decisions that a rewritten model and a reference both make.

    Attributes:
        makers: by the name of what is decided, the node of the rewritten model.
        inputs: names of the tensors that decide.
    """

    def __init__(self, model: Model, reference: Model) -> None:
        self.model = model
        known = {t.name for node in reference.graph.nodes for t in node.outputs if t.name}
        own = {t.name for node in model.graph.nodes for t in node.outputs}
        makers = {t.name: node for node in model.graph.nodes for t in _decided(node)}
        self.makers = {name: node for name, node in makers.items() if name in known}
        read = (t.name for node in self.makers.values() for t in node.inputs)
        self.inputs = list(dict.fromkeys(name for name in read if name in known & own))

    def told(self, claim: Claim, found: Values, run: int) -> dict[str, Array]:
        """What reference number `run` has decided, as the rewritten model would say it, where that is known."""
        told = {}
        for name, node in self.makers.items():
            value = found[name]
            if not isinstance(value, np.ndarray) or (node.op == "Cast" and value.dtype.kind not in "iub"):
                continue
            left = claim.kept(name, value, run)
            if left is not None:
                told[name] = left
        return told

    def pinned(self, told: Mapping[str, Array]) -> Model:
        """A copy of the rewritten model whose decisions are inputs."""
        copy = self.model.copy()
        for node in copy.graph.nodes:
            for out, tensor in enumerate(node.outputs):
                if tensor.name in told:
                    array = told[tensor.name]
                    node.outputs[out] = gs.Variable(f"{tensor.name}//undecided")
                    tensor.dtype, tensor.shape = array.dtype, list(array.shape)
                    copy.graph.inputs.append(tensor)
        return copy


def _decided(node: gs.Node) -> Sequence[gs.Tensor]:
    found = slice(None) if node.op.startswith(ROUNDED) else OUTPUTS.get(node.op)
    return [] if found is None else [t for t in node.outputs[found] if t.name]
