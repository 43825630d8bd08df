"""What a planner that trades depth against width and length needs of each block: cost as a function, and damage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from pruneopt.analysis.axes import Axis
from pruneopt.analysis.blocks import Block, Blocks, Term
from pruneopt.analysis.masks import size_of
from pruneopt.arrays import Feeds
from pruneopt.passes.context import Context
from pruneopt.passes.depth.study import Study


@dataclass(frozen=True)
class Candidate:
    """A block that may go.

    Attributes:
        block: which.
        damage: at the outputs when it goes alone; see `statistics.damage`. Damages of several blocks add up as long
            as they are small.
        macs: per product of sizes that goes with it, its axes.
        params: axes of each weight that goes with it.
    """

    block: Block
    damage: float
    macs: tuple[Term, ...]
    params: tuple[Term, ...]

    def saved(self, cost: str, kept: Mapping[Axis, int], run: int = -1) -> int:
        """Multiply-accumulates (`macs`) or parameters (`params`) saved when each atom has `kept` entries left."""
        terms: Sequence[Term] = getattr(self, cost)
        return sum(prod(size_of(axis, kept, run) for axis in term) for term in terms)


def candidates(
    blocks: Blocks, units: Sequence[Block], context: Context, batches: Sequence[Feeds]
) -> list[Candidate]:
    """Each block with what it saves and what it costs, in graph order; `Depth.candidates` says which may go."""
    study = Study(blocks, units, context, batches)
    return [
        Candidate(
            unit,
            study.damage([unit]),
            tuple(blocks.macs_terms(unit.nodes)),
            tuple(blocks.params_terms(unit.nodes)),
        )
        for unit in units
    ]
