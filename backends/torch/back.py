"""A trained module's weights back into the model that it was made from."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
from torch import Tensor, fx

from pruneopt.arrays import Array
from pruneopt.backends.torch.origin import origin_of
from pruneopt.backends.torch.values import to_array
from pruneopt.errors import PruneoptError
from pruneopt.frontends.clone import Cloner
from pruneopt.model import Model, values


def from_graph_module(module: fx.GraphModule) -> Model:
    """The model that `module` was made from, with the module's weights.

    Weights that have not changed stay as they are stored, byte for byte; others are converted to the element
    type that they have in the model. Raises PruneoptError where a weight is gone or has another shape.
    """
    origin = origin_of(module)
    cloner = Cloner()
    model = origin.model.copy()
    model.graph = cloner.graph(origin.model.graph)
    state = module.state_dict(keep_vars=True)
    for path, constant in origin.weights.items():
        if path not in state:
            raise PruneoptError(f"the module has lost its weight '{path}': it cannot go back into the model")
        new = cloner.tensors.get(id(constant))
        if isinstance(new, gs.Constant):
            _write(new, state[path], path)
    return model


def _write(constant: gs.Constant, tensor: Tensor, path: str) -> None:
    if tuple(tensor.shape) != tuple(constant.shape):
        raise PruneoptError(
            f"weight '{path}' has shape {list(tensor.shape)}, in the model it has {list(constant.shape)}: "
            "prune the model, not the module"
        )
    old = values(constant)
    new = to_array(tensor, old.dtype)
    if not _same(old, new):
        constant.values = new


def _same(a: Array, b: Array) -> bool:
    """Whether two arrays of one type are equal to the bit; NaNs and the signs of zeros count."""
    left, right = (np.ascontiguousarray(each).reshape(-1).view(np.uint8) for each in (a, b))
    return bool(np.array_equal(left, right))
