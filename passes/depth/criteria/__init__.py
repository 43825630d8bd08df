"""Criteria: what it costs to lose a block. One file each; the lowest goes first."""

from __future__ import annotations

from collections.abc import Callable

from pruneopt.errors import UsageError
from pruneopt.passes.depth.criteria.distance import output_distance
from pruneopt.passes.depth.criteria.index import last_first
from pruneopt.passes.depth.criteria.influence import block_influence
from pruneopt.passes.depth.study import Study

Criterion = Callable[[Study], dict[str, float]]

# `greedy` is `output` measured again after each removal (SLEB, arXiv 2402.09025).
CRITERIA: dict[str, Criterion] = {
    "greedy": output_distance,
    "output": output_distance,
    "influence": block_influence,
    "index": last_first,
}


def find_criterion(name: str) -> Criterion:
    """The criterion of that name. Raises UsageError where there is none."""
    if name not in CRITERIA:
        raise UsageError(f"depth: there is no criterion '{name}'; choose from {', '.join(CRITERIA)}")
    return CRITERIA[name]
