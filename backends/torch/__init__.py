"""PyTorch: any `Model` as a `torch.fx.GraphModule` that can be trained, and its weights back into the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pruneopt.errors import PruneoptError

if TYPE_CHECKING:
    from pruneopt.model import Model


def require_torch() -> Any:
    """The module `torch`. Raises PruneoptError where it is not installed."""
    try:
        import torch
    except ImportError:
        raise PruneoptError("this needs PyTorch: pip install 'pruneopt[torch]'") from None
    return torch


def to_torch(model: Model, outputs: Sequence[str] | None = None, trainable: Sequence[str] = ()) -> Any:
    """See `pruneopt.backends.torch.build.to_torch`. Raises PruneoptError where PyTorch is not installed."""
    require_torch()
    from pruneopt.backends.torch import build

    return build.to_torch(model, outputs, trainable)


def is_ours(module: Any) -> bool:
    """Whether a module was made by `to_torch`."""
    require_torch()
    from pruneopt.backends.torch.origin import META, Origin

    return isinstance(getattr(module, "meta", {}).get(META), Origin)


def from_graph_module(module: Any) -> Model:
    """See `pruneopt.backends.torch.back.from_graph_module`."""
    require_torch()
    from pruneopt.backends.torch import back

    return back.from_graph_module(module)
