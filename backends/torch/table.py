"""The table of ops: what computes each of them in PyTorch, keyed by domain, op and opset.

An op is a function of its inputs in their order, None where one is absent, and of its attributes by name.
An attribute that later opsets made an input is a parameter of that place: either way of giving it fits.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import import_module
from typing import Any, TypeVar

Function = Callable[..., Any]
Same = TypeVar("Same", bound=Function)
MODULES = (
    "elementwise activations contraction normalisation movement indexing scatter reduction convolution pooling "
    "resize spatial recurrent attention quantised fused fused_attention control sequences random"
).split()
# Ask the builder for more than inputs and attributes: the number of outputs, whether the module trains.
ASKED = frozenset({"outputs", "training"})


@dataclass(frozen=True)
class Entry:
    """How one op is computed.

    Attributes:
        function: computes it; ints and shapes are exact, results differentiable where the op is.
        since: first opset it holds for.
        settings: inputs that hold shapes, bounds and the like: small constants there arrive as Python values.
        fixed: inputs whose numbers are no weights (running statistics, quantisation scales).
        several: the function returns a tuple, one entry per output.
    """

    function: Function
    since: int = 1
    settings: frozenset[int] = frozenset()
    fixed: frozenset[int] = frozenset()
    several: bool = False

    @property
    def parameters(self) -> frozenset[str] | None:
        """Names that may be given by keyword; None where any may."""
        return _parameters(self.function)


@cache
def _parameters(function: Function) -> frozenset[str] | None:
    try:
        found = inspect.signature(function).parameters
    except ValueError:  # a function of PyTorch written in C++
        return frozenset()
    if any(p.kind is p.VAR_KEYWORD for p in found.values()):
        return None
    return frozenset(n for n, p in found.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))


_TABLE: dict[tuple[str, str], list[Entry]] = {}


def op(
    *names: str,
    domain: str = "",
    since: int = 1,
    settings: tuple[int, ...] = (),
    fixed: tuple[int, ...] = (),
    several: bool = False,
) -> Callable[[Same], Same]:
    """Register a function for ops; see `Entry`."""

    def register(function: Same) -> Same:
        entry = Entry(function, since, frozenset(settings), frozenset(fixed) | frozenset(settings), several)
        for name in names:
            _TABLE.setdefault((domain, name), []).append(entry)
        return function

    return register


def ops(functions: Mapping[str, Function], domain: str = "") -> None:
    """Register functions that are ops as they are."""
    for name, function in functions.items():
        op(name, domain=domain)(function)


def find(domain: str | None, name: str, opset: int) -> Entry | None:
    """The newest entry that the opset has reached; None where the op is not known."""
    _load()
    known = _TABLE.get((plain_domain(domain), name), [])
    reached = [entry for entry in known if entry.since <= opset]
    return max(reached, key=lambda entry: entry.since) if reached else None


def known_ops() -> list[tuple[str, str]]:
    """(domain, op) of every entry."""
    _load()
    return sorted(_TABLE)


def plain_domain(domain: str | None) -> str:
    """The domain's one spelling: "" is ONNX itself."""
    return "" if domain in (None, "", "ai.onnx") else str(domain)


@lru_cache(maxsize=1)
def _load() -> None:
    for name in MODULES:
        import_module(f"pruneopt.backends.torch.ops.{name}")
