"""Decides on held-out data whether what makes up for dropped blocks helps."""

from __future__ import annotations

from collections.abc import Sequence

from pruneopt.analysis.blocks import Block, Blocks
from pruneopt.arrays import Feeds
from pruneopt.model import Model
from pruneopt.passes.context import Context
from pruneopt.passes.depth.bypass import Amends, bypass
from pruneopt.passes.statistics.damage import Yardstick, outputs


class Judge:
    """Distance of the outputs from the whole model's, without those that only dropped blocks make."""

    def __init__(
        self, blocks: Blocks, dropped: Sequence[Block], context: Context, held: Sequence[Feeds]
    ) -> None:
        self.blocks, self.dropped, self.context, self.held = blocks, dropped, context, held
        model = blocks.analysis.model
        sides = {name for block in blocks.all() for name in block.sides}
        dense = [
            {name: value for name, value in each.items() if name not in sides}
            for each in outputs(model, context, held)
        ]
        self._yardstick = Yardstick.of(model.graph, dense)

    def damage(self, amends: Amends) -> float:
        """Of dropping the blocks and making up for it so; see `statistics.damage`."""
        return self.of(bypass(self.blocks, self.dropped, amends))

    def of(self, small: Model) -> float:
        """Of a rewritten model."""
        return self._yardstick.damage(outputs(small, self.context, self.held))


def last_of_runs(dropped: Sequence[Block]) -> list[Block]:
    """The last block of each run of dropped blocks that follow one another."""
    entries = {block.entry for block in dropped}
    return [block for block in dropped if block.exit not in entries]
