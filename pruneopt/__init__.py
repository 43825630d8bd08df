"""pruneopt: the pruning pass of a graph compiler."""

from typing import TYPE_CHECKING

from pruneopt.api import compare, from_torch, inspect, load, prune
from pruneopt.errors import PruneoptError, UsageError

if TYPE_CHECKING:
    from pruneopt.model import Model
    from pruneopt.report import Result

__all__ = [
    "Model",
    "PruneoptError",
    "Result",
    "UsageError",
    "compare",
    "from_torch",
    "inspect",
    "load",
    "prune",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """`Model` and `Result` are imported when first used: start-up stays fast."""
    if name == "Model":
        from pruneopt.model import Model

        return Model
    if name == "Result":
        from pruneopt.report import Result

        return Result
    raise AttributeError(f"module 'pruneopt' has no attribute '{name}'")
