"""The rule table: what each op's axes mean, keyed by domain, op and opset.

A rule is a function of an `Op`, or a pattern in the notation of `analysis.notation`. Third parties add
theirs with `@rule` in a module named by an entry point of the group `pruneopt.rules`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from importlib.metadata import entry_points

import onnx_graphsurgeon as gs

from pruneopt.analysis.op import Op

Rule = Callable[[Op], None]
MODULES = (
    "elementwise movement indexing contraction normalisation reduction recurrent quantised attention fused "
    "spatial control"
).split()

_TABLE: dict[tuple[str, str], list[tuple[int, Rule]]] = {}


def rule(*ops: str, domain: str = "", since: int = 1) -> Callable[[Rule], Rule]:
    """Register a function as the rule of `ops` from opset `since` on."""

    def register(function: Rule) -> Rule:
        for op in ops:
            _TABLE.setdefault((domain, op), []).append((since, function))
        return function

    return register


def pattern(text: str, *ops: str, domain: str = "", since: int = 1, macs: bool = False) -> None:
    """Register a pattern as the rule of `ops` from opset `since` on."""

    @rule(*ops, domain=domain, since=since)
    def relate(op: Op) -> None:
        op.relate(text, macs=macs)


def find_rule(node: gs.Node, opset: int) -> Rule | None:
    """The newest rule for this node that its opset has reached."""
    _load()
    domain = "" if node.domain in (None, "", "ai.onnx") else node.domain
    known = [entry for entry in _TABLE.get((domain, node.op), []) if entry[0] <= opset]
    return max(known, key=lambda entry: entry[0])[1] if known else None


def known_ops() -> list[tuple[str, str]]:
    """(domain, op) of every rule."""
    _load()
    return sorted(_TABLE)


@lru_cache(maxsize=1)
def _load() -> None:
    for name in MODULES:
        import_module(f"{__name__}.{name}")
    for entry in entry_points(group="pruneopt.rules"):
        entry.load()
