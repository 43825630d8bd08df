"""Plain index: the last block goes first. Needs no data; a baseline."""

from __future__ import annotations

from pruneopt.passes.depth.study import Study


def last_first(study: Study) -> dict[str, float]:
    """Distance from the end, by name."""
    return {unit.name: float(len(study.units) - i) for i, unit in enumerate(study.units)}
