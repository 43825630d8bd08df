"""Few rows times a weight with zeros anywhere: outputs lie in the lanes of a vector, each with inputs of its own.

    for each tile of rows, block of outputs, `registers` rows:
        sums[row] += values[step] * lookup(x[row, window(step) and the 31 behind it], places[step])

Every lane picks one input out of two vectors, which serve all outputs of a block. A step takes the next entry of each
output that has it in the step's window, and the window slides on to the first entry that is left: an output may run
ahead of others that have more entries here, and zeros fill up only what is left over.
"""

from __future__ import annotations

from typing import Any

from pruneopt.backends.tvm.packing import WINDOW, order
from pruneopt.backends.tvm.templates.frame import Expr, Frame, bound, builder, load, looked_up, store
from pruneopt.backends.tvm.templates.outputs import Outputs


class Lookup(Outputs):
    """The template for one layer of at least `WINDOW` inputs, and a schedule with a `block` of whole vectors."""

    def places(self) -> range:
        """Where the kernel holds each input: in its window."""
        return range(WINDOW)

    def _add(self, k: Frame, sums: list[Any], entry: Expr, row: Expr) -> None:
        lanes, wide = self.lanes, self.schedule.block // self.lanes
        window = bound(k.starts[order(self.layer, self.schedule).firsts + entry])
        for r in range(len(sums) // wide):
            x = bound((row + r) * self.layer.inputs + window)
            low, high = (bound(load(k.x, x + half, lanes)) for half in (0, lanes))
            for v, each in enumerate(sums[r * wide : (r + 1) * wide]):
                at = (entry * wide + v) * lanes
                places = builder().Cast(f"int32x{lanes}", load(k.offsets, at, lanes))
                total = load(each, 0, lanes) + load(k.values, at, lanes) * looked_up(low, high, places)
                store(each, 0, total, lanes)
