"""`Model`: the user's own graph and everything around it. The only thing passes rewrite."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx_graphsurgeon.logger import G_LOGGER

# Its warnings are about conversions that are not used here, and users cannot act on them.
G_LOGGER.severity = G_LOGGER.CRITICAL

# Ops whose outputs no input decides: never constants.
RANDOM = {
    "RandomNormal",
    "RandomUniform",
    "RandomNormalLike",
    "RandomUniformLike",
    "Multinomial",
    "Bernoulli",
}


@dataclass
class Model:
    """A graph, and `header`: its ModelProto without graph and functions.

    Local functions are inlined and Constant nodes are constants. `sources` are the files beside the model
    that weights are read from.
    """

    graph: gs.Graph
    header: onnx.ModelProto
    path: Path | None = None
    sources: frozenset[Path] = field(default_factory=frozenset)

    @classmethod
    def load(cls, path: str | Path) -> Model:
        """The model in a file. Raises PruneoptError naming the file and what is wrong with it."""
        from pruneopt.frontends import onnx as frontend

        return frontend.load(path)

    @classmethod
    def from_proto(cls, proto: onnx.ModelProto, base: str | Path | None = None) -> Model:
        """The model in a proto, which stays as it is; `base` is the folder of its external data."""
        from pruneopt.frontends import onnx as frontend

        return frontend.from_proto(proto, base)

    def proto(self) -> onnx.ModelProto:
        """The complete model, data inline. Raises TooLargeError beyond 2 GB: `save` it instead."""
        from pruneopt.frontends import onnx as frontend

        return frontend.to_proto(self)

    def save(self, path: str | Path) -> None:
        """Writes the model, whole or not at all. Raises PruneoptError when that cannot be done."""
        from pruneopt.frontends import saving

        saving.save(self, path)

    def copy(self) -> Model:
        """A model with its own nodes, variables and subgraphs; weight arrays are shared."""
        from pruneopt.frontends.clone import Cloner

        header = onnx.ModelProto()
        header.CopyFrom(self.header)
        return Model(Cloner().graph(self.graph), header, self.path, self.sources)

    def to_torch(self, outputs: Sequence[str] | None = None, trainable: Sequence[str] = ()) -> Any:
        """The model as a `torch.fx.GraphModule` that can be trained; `pruneopt.from_torch` brings it back.

        `outputs` names tensors to return instead of the model's outputs, `trainable` has glob patterns of
        scalars that learn. Raises PruneoptError where an op is not known in PyTorch.
        """
        from pruneopt import api

        return api.to_torch(self, outputs, trainable)

    @property
    def inputs(self) -> list[gs.Variable]:
        """What has to be fed: the graph's inputs without those that have a default."""
        return [tensor for tensor in self.graph.inputs if isinstance(tensor, gs.Variable)]

    @property
    def outputs(self) -> list[gs.Tensor]:
        return list(self.graph.outputs)

    def opset(self, domain: str = "") -> int:
        """Version of an operator set; 0 when the model does not import it."""
        names = ("", "ai.onnx") if domain in ("", "ai.onnx") else (domain,)
        return next((o.version for o in self.header.opset_import if o.domain in names), 0)


def values(constant: gs.Constant) -> NDArray[Any]:
    """The array of a constant; stored ones are read-only views, and bf16, fp8 and int4 have ml_dtypes."""
    stored = constant._values
    return stored if isinstance(stored, np.ndarray) else np.asarray(stored.load())


def makers(graph: gs.Graph) -> dict[str, gs.Node]:
    """What makes each tensor of the main graph, by its name."""
    return {tensor.name: node for node in graph.nodes for tensor in node.outputs if tensor.name}


def constants(graph: gs.Graph) -> list[gs.Constant]:
    """Every constant that the graph or a subgraph uses, once each."""
    return list({id(constant): constant for constant in _constants(graph)}.values())


def _constants(graph: gs.Graph) -> Iterator[gs.Constant]:
    for node in graph.nodes:
        for tensor in node.inputs:
            if isinstance(tensor, gs.Constant):
                yield tensor
        for subgraph in node.attrs.values():
            if isinstance(subgraph, gs.Graph):
                yield from _constants(subgraph)
    for tensor in graph.outputs:
        if isinstance(tensor, gs.Constant):
            yield tensor
