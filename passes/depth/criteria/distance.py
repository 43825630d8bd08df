"""Output distance: how far the model's outputs move when one block is bypassed and all others stay."""

from __future__ import annotations

from pruneopt.passes.depth.study import Study


def output_distance(study: Study) -> dict[str, float]:
    """Damage at the outputs of bypassing each unit alone, by name."""
    return {unit.name: study.damage([unit]) for unit in study.units}
