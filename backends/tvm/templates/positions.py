"""Any pattern, rows and images: rows or pixels lie in the lanes of a vector.

A tile's inputs are first laid out as a panel in `scratch`, one line of positions for each input. Then, for each
block of outputs and `registers` vectors of positions,

    sums[output] += values[entry, output] * panel[place(entry) + position]

goes through the entries of one stretch of inputs at a time, so that its part of the panel stays in the first
cache. Sums wait in `scratch` between stretches. The panel (`rows.Rows` or `image.Pixels`) knows how inputs become
positions and how sums become outputs.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from pruneopt.backends.tvm.layer import Layer, Schedule
from pruneopt.backends.tvm.packing import Order, order
from pruneopt.backends.tvm.templates.frame import (
    Expr,
    Frame,
    bound,
    builder,
    either,
    left_over,
    load,
    over,
    spread,
    store,
    vectors,
)

STRIP = 8  # outputs of a block whose sums are held in registers at the same time
MARGIN = 64  # floats behind the panel that a last vector may read


class Panel(Protocol):
    """A tile's inputs by position."""

    size: int  # floats
    stretch: int  # floats of one stretch of inputs
    width: int  # positions of a full tile, in vectors

    def places(self) -> Any:
        """Where each input of a stretch begins, [order.depth]."""

    def fill(self, k: Frame, tile: Expr) -> None:
        """Emit the code that lays the inputs of a tile out."""

    def full(self, k: Frame, tile: Expr) -> Expr | None:
        """Whether the tile has `width` vectors; None where every tile has."""

    def valid(self, k: Frame, tile: Expr) -> Expr:
        """Vectors of the tile that hold positions."""

    def keep(self, k: Frame, tile: Expr, sums: int, first: Expr, count: Expr) -> None:
        """Emit the code that stores outputs `first` to `first + count` of the tile, whose sums are at `sums`."""


class Positions:
    """The template for one layer and schedule."""

    def __init__(self, layer: Layer, schedule: Schedule, lanes: int) -> None:
        from pruneopt.backends.tvm.templates.image import Pixels
        from pruneopt.backends.tvm.templates.rows import Rows

        self.layer = layer
        self.schedule = schedule
        self.lanes = lanes
        self.cut: Order = order(layer, schedule)
        self.panel: Any = (Pixels if layer.image else Rows)(layer, schedule, self.cut, lanes)
        self.sums = self.panel.size + MARGIN  # where sums begin in scratch
        self.line = self.panel.width * lanes  # floats of one output's sums
        self.scratch = self.sums + self.cut.span * schedule.block * self.line + MARGIN

    def places(self) -> Any:
        """Where the kernel holds each input of a stretch."""
        return np.asarray(self.panel.places())

    def emit(self, k: Frame) -> None:
        """The body of the kernel."""
        T = builder()
        with T.serial(k.first, k.last) as unit:
            part, tile = bound(left_over(unit, k.parts)), bound(over(unit, k.parts))
            group = left_over(tile, self.layer.groups)
            self.panel.fill(k, tile)
            spans = self.cut.spans
            with T.serial(over(part * spans, k.parts), over((part + 1) * spans, k.parts)) as span:
                segment = bound((group * spans + span) * self.cut.stretches * self.cut.span)
                blocks = bound(T.min(self.cut.span, self.cut.blocks - span * self.cut.span))
                bias = bound((group * self.cut.blocks + span * self.cut.span) * self.schedule.block)
                self._stretch(k, tile, segment, blocks, 0, bias)
                if self.cut.stretches > 1:
                    with T.serial(1, self.cut.stretches) as stretch:
                        self._stretch(k, tile, segment + stretch * self.cut.span, blocks, stretch, None)
                first = span * self.cut.span * self.schedule.block
                count = T.min(blocks * self.schedule.block, self.layer.outputs - first)
                self.panel.keep(k, tile, self.sums, bound(first), bound(count))

    def _stretch(
        self, k: Frame, tile: Expr, segment: Expr, blocks: Expr, stretch: Expr, bias: Expr | None
    ) -> None:
        """All blocks of a span for one stretch of inputs; `bias` is given for the first of them."""
        T = builder()
        full = self.panel.full(k, tile)
        with T.serial(0, blocks) as block:
            start, stop = bound(k.starts[segment + block]), bound(k.starts[segment + block + 1])
            base = stretch * self.panel.stretch

            def strips(first: Expr, count: int) -> None:
                for strip in range(0, self.schedule.block, STRIP):
                    size = min(STRIP, self.schedule.block - strip)
                    line = block * self.schedule.block + strip
                    own = None if bias is None else bias + line
                    self._sums(k, start, stop, base, first, count, strip, size, line, own)

            def whole() -> None:
                for first, count in self._chunks():
                    strips(first, count)

            def some() -> None:
                with T.serial(0, self.panel.valid(k, tile)) as first:
                    strips(first, 1)

            whole() if full is None else either(full, whole, some)

    def _chunks(self) -> list[tuple[int, int]]:
        """(first, count) of the vectors that are summed at the same time, as even as they can be."""
        chunks = -(-self.panel.width // self.schedule.registers)
        edges = [self.panel.width * i // chunks for i in range(chunks + 1)]
        return [(a, b - a) for a, b in pairwise(edges)]

    def _sums(
        self,
        k: Frame,
        start: Expr,
        stop: Expr,
        base: Expr,
        first: Expr,
        count: int,
        strip: int,
        size: int,
        line: Expr,
        bias: Expr | None,
    ) -> None:
        """Sums of `size` outputs and `count` vectors over the entries from `start` to `stop`."""
        T = builder()
        sums = vectors(size * count, self.lanes)
        for i, each in enumerate(sums):
            o, v = divmod(i, count)
            at = self.sums + (line + o) * self.line + (first + v) * self.lanes
            begin = load(k.scratch, at, self.lanes) if bias is None else spread(k.bias[bias + o], self.lanes)
            store(each, 0, begin, self.lanes)

        def add(entry: Expr) -> None:
            place = bound(base + k.offset(entry) + first * self.lanes)
            weights = [
                spread(k.values[entry * self.schedule.block + strip + o], self.lanes) for o in range(size)
            ]
            weights = list(map(bound, weights)) if count > 1 else weights
            for v in range(count):
                x = load(k.scratch, place + v * self.lanes, self.lanes)
                x = bound(x) if size > 1 else x
                for o in range(size):
                    each = sums[o * count + v]
                    store(each, 0, load(each, 0, self.lanes) + weights[o] * x, self.lanes)

        copies = self.schedule.unroll
        whole = bound(over(stop - start, copies))
        with T.serial(0, whole) as step:
            for copy in range(copies):
                add(start + step * copies + copy)
        if copies > 1:
            with T.serial(start + whole * copies, stop) as entry:
                add(entry)
        for i, each in enumerate(sums):
            o, v = divmod(i, count)
            at = self.sums + (line + o) * self.line + (first + v) * self.lanes
            store(k.scratch, at, load(each, 0, self.lanes), self.lanes)
