"""A model as a PyTorch module that is fed and read by the model's own names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.arrays import Array, Feeds
from pruneopt.errors import PruneoptError
from pruneopt.model import Model

Tensors = dict[str, Any]  # name in the model -> torch.Tensor


def require_torch(who: str) -> Any:
    """The module `torch`. Raises PruneoptError, naming `who` needs it, where it is not installed."""
    try:
        import torch
    except ImportError:
        raise PruneoptError(f"{who} needs PyTorch: pip install 'pruneopt[torch]'") from None
    return torch


class Net:
    """A model in float32 on a device, in evaluation mode: BatchNormalization keeps its statistics.

    Attributes:
        module: the `torch.fx.GraphModule`.
        outputs: names of the tensors that it returns.
        paths: name of each weight that can learn -> its path in the module.
        tables: names of those that are only looked up, row by row.
    """

    def __init__(self, model: Model, outputs: Sequence[str] = (), device: str = "cpu") -> None:
        self.outputs = list(outputs) or [t.name for t in model.outputs]
        self.device = device
        self.module = model.to_torch(self.outputs).float().to(device)
        self._origin = self.module.meta["pruneopt"]
        _channels_last(self.module, self._origin)
        learns = dict(self.module.named_parameters())
        self.paths = {
            str(constant.name): path for path, constant in self._origin.weights.items() if path in learns
        }
        self.tables = {
            name
            for name, path in self.paths.items()
            if all(_looks_up(node) for node in self._origin.weights[path].outputs)
        }

    @property
    def weights(self) -> Tensors:
        """The parameters by their names in the model."""
        learns = dict(self.module.named_parameters())
        return {name: learns[path] for name, path in self.paths.items()}

    def run(self, feeds: Feeds, changed: Mapping[str, Any] | None = None) -> Tensors:
        """Every output by name; `changed` weights, by name in the model, stand in for the module's own."""
        from torch.func import functional_call

        given = {
            argument: self.tensor(feeds[name])
            for name, argument in self._origin.inputs.items()
            if name in feeds
        }
        if changed:
            new = {self.paths[name]: tensor for name, tensor in changed.items()}
            found = functional_call(self.module, new, (), given)
        else:
            found = self.module(**given)
        return dict(zip(self.outputs, found if isinstance(found, tuple) else (found,), strict=True))

    def tensor(self, array: Array) -> Any:
        """A copy of the array on the device, floating types as float32."""
        import torch

        array = np.asarray(array)
        if array.dtype.kind in "fV":
            array = array.astype(np.float32)
        return torch.from_numpy(np.array(array, order="C")).to(self.device)


def _looks_up(node: gs.Node) -> bool:
    """Whether a node takes rows that its data choose."""
    return node.op == "Gather" and isinstance(node.inputs[1], gs.Variable)


def _channels_last(module: Any, origin: Any) -> None:
    """Weights of convolutions of images in the layout that kernels are fastest in; outputs follow it."""
    import torch

    for path, parameter in module.named_parameters():
        if parameter.ndim == 4 and all(n.op == "Conv" for n in origin.weights[path].outputs):
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
