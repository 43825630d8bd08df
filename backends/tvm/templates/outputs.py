"""Rows times a weight whose neighbouring outputs share their zeros: outputs lie in the lanes of a vector.

    for each tile of rows, block of outputs, `registers` rows:  sums[row] += values[entry] * x[row, input(entry)]

A vector of weights serves all rows at hand, and one number of `x` is spread over the lanes. With few rows, the
sums of neighbouring entries are kept apart, so that an addition need not wait for the one before it.
"""

from __future__ import annotations

from typing import Any

from pruneopt.backends.tvm.layer import Layer, Schedule
from pruneopt.backends.tvm.packing import order
from pruneopt.backends.tvm.templates.activation import activated
from pruneopt.backends.tvm.templates.frame import (
    Expr,
    Frame,
    bound,
    builder,
    either,
    load,
    over,
    spread,
    store,
    vectors,
    widths,
)
from pruneopt.backends.tvm.templates.pieces import chunked, share_of, unit_of

CHAINS = 8  # sums in flight that hide the latency of an addition


class Outputs:
    """The template for one layer and schedule, in vectors of at most `lanes`."""

    def __init__(self, layer: Layer, schedule: Schedule, lanes: int) -> None:
        self.layer = layer
        self.schedule = schedule
        self.lanes = min(lanes, schedule.block)
        self.blocks = -(-layer.outputs // schedule.block)
        self.numbers = order(layer, schedule).numbers
        self.scratch = 1

    def places(self) -> range:
        """Where the kernel holds each input: in its row."""
        return range(self.layer.inputs)

    def emit(self, k: Frame) -> None:
        """The body of the kernel."""
        T = builder()
        with T.serial(k.first, k.last) as unit:
            part, top, rows = unit_of(k, unit, self.schedule.tile)
            with T.serial(*share_of(k, part, self.blocks)) as i:
                block = bound(k.starts[self.numbers + i])
                edges = [bound(k.starts[i]), bound(k.starts[i + 1])]
                self._fitting(k, top, rows, edges, block)

    def _fitting(self, k: Frame, top: Expr, rows: Expr, edges: list[Expr], block: Expr) -> None:
        """One block, the last of which may have fewer outputs."""
        full, some = self.schedule.block, self.layer.outputs % self.schedule.block
        if not some:
            self._block(k, top, rows, edges, block, full)
            return
        last = block == self.blocks - 1
        either(
            last,
            lambda: self._block(k, top, rows, edges, block, some),
            lambda: self._block(k, top, rows, edges, block, full),
        )

    def _block(self, k: Frame, top: Expr, rows: Expr, edges: list[Expr], block: Expr, outputs: int) -> None:
        """All rows of a tile for one block."""

        def some(start: Expr, count: int) -> None:
            self._rows(k, top + start, count, edges, block, outputs)

        chunked(rows, self.schedule.registers, some)

    def _rows(self, k: Frame, row: Expr, rows: int, edges: list[Expr], block: Expr, outputs: int) -> None:
        T = builder()
        row, (start, stop) = bound(row), edges
        wide = self.schedule.block // self.lanes
        chains = max(1, CHAINS // (rows * wide))
        sums = [vectors(rows * wide, self.lanes) for _ in range(chains)]
        for chain, own in enumerate(sums):
            for i, each in enumerate(own):
                bias = load(k.bias, block * self.schedule.block + i % wide * self.lanes, self.lanes)
                store(each, 0, spread(T.float32(0), self.lanes) if chain else bias, self.lanes)
        whole = bound(over(stop - start, chains))
        with T.serial(0, whole) as step:
            for chain, own in enumerate(sums):
                self._add(k, own, start + step * chains + chain, row)
        if chains > 1:
            with T.serial(start + whole * chains, stop) as entry:
                self._add(k, sums[0], entry, row)
        self._finish(k, sums, row, block, outputs)

    def _add(self, k: Frame, sums: list[Any], entry: Expr, row: Expr) -> None:
        wide = self.schedule.block // self.lanes
        column = bound(k.offset(entry))
        for v in range(wide):
            weights = bound(load(k.values, (entry * wide + v) * self.lanes, self.lanes))
            for r in range(len(sums) // wide):
                x = spread(k.x[(row + r) * self.layer.inputs + column], self.lanes)
                each = sums[r * wide + v]
                store(each, 0, load(each, 0, self.lanes) + weights * x, self.lanes)

    def _finish(self, k: Frame, sums: list[list[Any]], row: Expr, block: Expr, outputs: int) -> None:
        wide = self.schedule.block // self.lanes
        for i, each in enumerate(sums[0]):
            total = load(each, 0, self.lanes)
            for other in sums[1:]:
                total = total + load(other[i], 0, self.lanes)
            store(each, 0, activated(total, self.lanes, self.layer.act), self.lanes)
            r, v = divmod(i, wide)
            there = (row + r) * self.layer.outputs + block * self.schedule.block + v * self.lanes
            for at, width in widths(min(self.lanes, outputs - v * self.lanes), self.lanes):
                store(k.y, there + at, load(each, at, width), width)
