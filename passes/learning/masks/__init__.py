"""Learned gates on atoms: one mechanism, and one file for each published way to learn them."""

from __future__ import annotations

from pruneopt.errors import UsageError
from pruneopt.passes.learning.masks.hard_concrete import HardConcrete
from pruneopt.passes.learning.masks.l1 import Shrinkage
from pruneopt.passes.learning.masks.lora import Adapted
from pruneopt.passes.learning.masks.method import Method
from pruneopt.passes.learning.masks.spp import SolutionPath
from pruneopt.passes.learning.masks.xpruner import ClassMasks

METHODS: dict[str, type[Method]] = {
    "spp": SolutionPath,
    "l1": Shrinkage,
    "hard-concrete": HardConcrete,
    "lora": Adapted,
    "x-pruner": ClassMasks,
}


def find_method(name: str) -> type[Method]:
    """The method of that name. Raises UsageError where there is none."""
    if name not in METHODS:
        raise UsageError(f"learn: there is no method '{name}'; choose one of {', '.join(sorted(METHODS))}")
    return METHODS[name]
