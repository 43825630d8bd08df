"""Rows [M, inputs] as a panel, and sums as rows [M, outputs]: both are transposed on the way."""

from __future__ import annotations

import numpy as np

from pruneopt.backends.tvm.layer import Layer, Schedule
from pruneopt.backends.tvm.packing import Ints, Order
from pruneopt.backends.tvm.templates.activation import activated
from pruneopt.backends.tvm.templates.frame import (
    Expr,
    Frame,
    bound,
    builder,
    load,
    over,
    store,
    transposed,
    when,
)
from pruneopt.backends.tvm.templates.pieces import stretch


class Rows:
    """A tile of `schedule.tile` rows, a multiple of the lanes; the last may hold fewer."""

    direct = False
    area = period = periods = passed = 0

    def __init__(self, layer: Layer, schedule: Schedule, cut: Order, lanes: int) -> None:
        self.layer = layer
        self.lanes = lanes
        self.tile = -(-schedule.tile // lanes) * lanes
        self.width = self.tile // lanes
        self.depth = cut.depth
        self.read = cut.depth * self.tile
        self.stretch = 0 if cut.streamed else self.read
        self.size = self.read if cut.streamed else layer.inputs * self.tile

    def places(self) -> Ints:
        return np.arange(self.depth) * self.tile

    def valid(self, k: Frame, tile: Expr) -> Expr:
        T = builder()
        return bound(over(T.min(k.n - tile * self.tile, self.tile) + self.lanes - 1, self.lanes))

    def begin(self, tile: Expr) -> Expr:
        return 0

    def load(self, k: Frame, place: Expr, vector: int, column: int) -> Expr:
        return load(k.scratch, place, self.lanes)

    def fill(self, k: Frame, tile: Expr, number: Expr | None) -> None:
        """Rows beyond the last repeat it: what they give is never stored."""
        T = builder()
        inputs, lanes = self.layer.inputs, self.lanes
        first, count = stretch(inputs, self.depth, number)
        with T.serial(0, self.valid(k, tile)) as v:
            top = tile * self.tile + v * lanes
            rows = [bound(T.min(top + i, k.n - 1) * inputs + first) for i in range(lanes)]
            with T.serial(0, over(count, lanes)) as square:
                start = bound(square * lanes)

                def x(row: int, column: int, count: int) -> Expr:
                    return load(k.x, rows[row] + start + column, count)

                for i, line in enumerate(transposed(x, lanes)):
                    store(k.scratch, (square * lanes + i) * self.tile + v * lanes, line, lanes)
            with T.serial(over(count, lanes) * lanes, count) as column:
                for i, row in enumerate(rows):
                    store(k.scratch, column * self.tile + v * lanes + i, k.x[row + column], 1)

    def keep(self, k: Frame, tile: Expr, sums: int, first: Expr, count: Expr) -> None:
        T = builder()
        lanes, act, outputs = self.lanes, self.layer.act, self.layer.outputs
        with T.serial(0, self.valid(k, tile)) as v:
            top = bound(tile * self.tile + v * lanes)
            here = bound(sums + v * lanes)
            with T.serial(0, over(count, lanes)) as square:
                start = bound(here + square * lanes * self.tile)

                def sum_(row: int, column: int, count: int) -> Expr:
                    return load(k.scratch, start + row * self.tile + column, count)

                for i, line in enumerate(transposed(sum_, lanes)):
                    with when(top + i < k.n):
                        there = (top + i) * outputs + first + square * lanes
                        store(k.y, there, activated(line, lanes, act), lanes)
            with (
                T.serial(over(count, lanes) * lanes, count) as column,
                T.serial(0, T.min(k.n - top, lanes)) as i,
            ):
                value = activated(k.scratch[here + column * self.tile + i], 1, act)
                store(k.y, (top + i) * outputs + first + column, value, 1)
