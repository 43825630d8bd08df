"""Few rows times a weight with zeros anywhere: outputs lie in the lanes of a vector, each with inputs of its own.

    for each row, stretch of inputs, block of outputs:  sums += values[step] * lookup(x of the stretch, places[step])

The inputs of a stretch are held in two registers, out of which every lane picks one: no number of x is loaded
for a multiply-add. A block takes as many steps as the output with most entries; others have zeros. What is read of
a weight serves `registers` rows. Sums wait in `scratch` between stretches.
"""

from __future__ import annotations

from typing import Any

from pruneopt.backends.tvm.layer import Layer, Schedule
from pruneopt.backends.tvm.packing import Order, order
from pruneopt.backends.tvm.templates.activation import activated
from pruneopt.backends.tvm.templates.frame import (
    Expr,
    Frame,
    bound,
    builder,
    either,
    load,
    looked_up,
    spread,
    store,
    vectors,
    widths,
)
from pruneopt.backends.tvm.templates.pieces import chunked, share_of, unit_of


class Lookup:
    """The template for one layer and schedule; `block` is the number of lanes, `depth` twice as many."""

    def __init__(self, layer: Layer, schedule: Schedule, lanes: int) -> None:
        self.layer = layer
        self.schedule = schedule
        self.lanes = lanes
        self.cut: Order = order(layer, schedule)
        self.held = 2 * lanes  # inputs of a stretch
        self.row = self.cut.stretches * self.held  # floats of a row, zeros behind its inputs
        self.sums = schedule.registers * self.row  # where sums begin in scratch
        self.line = self.cut.span * lanes  # floats of one row's sums
        self.scratch = self.sums + schedule.registers * self.line

    def places(self) -> range:
        """Where the kernel holds each input of a stretch."""
        return range(self.cut.depth)

    def emit(self, k: Frame) -> None:
        """The body of the kernel."""
        T = builder()
        with T.serial(k.first, k.last) as unit:
            part, top, rows = unit_of(k, unit, self.schedule.tile)
            edges = share_of(k, part, self.cut.spans)

            def some(start: Expr, count: int) -> None:
                self._rows(k, bound(top + start), count, edges)

            chunked(rows, self.schedule.registers, some)

    def _rows(self, k: Frame, top: Expr, count: int, edges: tuple[Expr, Expr]) -> None:
        """Some spans of the outputs of `count` rows."""
        T = builder()
        for row in range(count):
            self._fill(k, top + row, row * self.row)
        with T.serial(*edges) as span:
            first = bound(span * self.cut.span)
            blocks = bound(T.min(self.cut.blocks - first, self.cut.span))
            with T.serial(0, blocks) as i:
                bias = bound(load(k.bias, (first + i) * self.lanes, self.lanes))
                for row in range(count):
                    store(k.scratch, self._sum(row, i), bias, self.lanes)
            with T.serial(0, self.cut.stretches) as stretch:
                segment = bound((span * self.cut.stretches + stretch) * self.cut.span)
                self._stretch(k, count, stretch * self.held, segment, blocks)
            with T.serial(0, blocks) as i:
                self._put(k, top, count, i, first + i)

    def _fill(self, k: Frame, row: Expr, target: int) -> None:
        """The inputs of a row, and zeros behind them."""
        T = builder()
        lanes, inputs = self.lanes, self.layer.inputs
        start = bound(row * inputs)
        whole = inputs // lanes * lanes
        for at in range(whole, self.row, lanes):
            store(k.scratch, target + at, spread(T.float32(0), lanes), lanes)
        with T.serial(0, whole // lanes) as v:
            store(k.scratch, target + v * lanes, load(k.x, start + v * lanes, lanes), lanes)
        for at, wide in widths(inputs - whole, lanes):
            store(k.scratch, target + whole + at, load(k.x, start + whole + at, wide), wide)

    def _sum(self, row: int, block: Expr) -> Expr:
        """Where the sums of a row and a block of the span wait."""
        return self.sums + row * self.line + block * self.lanes

    def _stretch(self, k: Frame, count: int, inputs: Expr, segment: Expr, blocks: Expr) -> None:
        """All blocks of a span for one stretch of inputs."""
        T = builder()
        lanes = self.lanes
        x = [
            [bound(load(k.scratch, row * self.row + inputs + half * lanes, lanes)) for half in (0, 1)]
            for row in range(count)
        ]
        sums = vectors(count, lanes)
        with T.serial(0, blocks) as i:
            block = bound(k.starts[self.cut.numbers + segment + i])
            for row, each in enumerate(sums):
                store(each, 0, load(k.scratch, self._sum(row, block), lanes), lanes)
            with T.serial(k.starts[segment + i], k.starts[segment + i + 1]) as step:
                self._add(k, step, x, sums)
            for row, each in enumerate(sums):
                store(k.scratch, self._sum(row, block), load(each, 0, lanes), lanes)

    def _add(self, k: Frame, step: Expr, x: list[list[Expr]], sums: list[Any]) -> None:
        lanes = self.lanes
        places = bound(builder().Cast(f"int32x{lanes}", load(k.offsets, step * lanes, lanes)))
        weights = bound(load(k.values, step * lanes, lanes))
        for (low, high), each in zip(x, sums, strict=True):
            total = load(each, 0, lanes) + weights * looked_up(low, high, places)
            store(each, 0, total, lanes)

    def _put(self, k: Frame, top: Expr, count: int, i: Expr, block: Expr) -> None:
        """The sums of a block to `y`; the last block may have fewer outputs."""
        lanes, outputs = self.lanes, self.layer.outputs
        block, [made] = bound(block), vectors(1, lanes)

        def put(number: int) -> None:
            for row in range(count):
                sums = load(k.scratch, self._sum(row, i), lanes)
                store(made, 0, activated(sums, lanes, self.layer.act), lanes)
                there = bound((top + row) * outputs + block * lanes)
                for at, wide in widths(number, lanes):
                    store(k.y, there + at, load(made, at, wide), wide)

        if outputs % lanes:
            either(block == self.cut.blocks - 1, lambda: put(outputs % lanes), lambda: put(lanes))
        else:
            put(lanes)
