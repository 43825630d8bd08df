"""Any pattern, rows and images: rows or pixels lie in the lanes of a vector.

A tile's inputs are first laid out as a panel in `scratch`, one line of positions for each input. Then, for each
block of outputs and `registers` vectors of positions,

    sums[output] += values[entry, output] * panel[place(entry) + position]

goes through the entries of one stretch of inputs at a time, so that its part of the panel stays in the first
cache. Sums wait in `scratch` between stretches, and after the last where they must be turned. The panel
(`rows.Rows` or `image.Pixels`) knows how inputs become positions and how sums become outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
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
    when,
)

STRIP = 8  # outputs of a block whose sums are held in registers at the same time
CHAINS = 8  # sums in flight that hide the latency of an addition
MARGIN = 64  # floats behind the panel that a last vector may read


class Panel(Protocol):
    """A tile's inputs by position, and where its sums go: by `put` where they are stored `direct`, else by `keep`."""

    size: int  # floats
    stretch: int  # floats of one stretch of inputs
    width: int  # positions of a full tile, in vectors
    direct: bool
    area: int  # floats of one output, where sums are stored direct

    def places(self) -> Any:
        """Where each input of a stretch begins, [order.depth]."""

    def fill(self, k: Frame, tile: Expr) -> None:
        """Emit the code that lays the inputs of a tile out."""

    def full(self, k: Frame, tile: Expr) -> Expr | None:
        """Whether the tile has `width` vectors; None where every tile has."""

    def valid(self, k: Frame, tile: Expr) -> Expr:
        """Vectors of the tile that hold positions."""

    def origin(self, tile: Expr) -> Expr:
        """Where in `y` the tile's first output begins."""

    def put(self, k: Frame, target: Expr, vector: int, sums: Any) -> None:
        """Emit the code that stores one vector of sums of the output that begins at `target`."""

    def keep(self, k: Frame, tile: Expr, sums: int, first: Expr, count: Expr) -> None:
        """Emit the code that stores outputs `first` to `first + count` of the tile, whose sums are at `sums`."""


@dataclass(frozen=True)
class Stretch:
    """What is done at one stretch of inputs for a span of blocks.

    Attributes:
        tile, number: of which tile, and which of its stretches.
        segment: the first of the span's segments.
        blocks: how many there are.
        first: the span's first output.
        origin: where in `y` the tile's first output begins.
        bias: where sums begin, else they are continued.
        last: whether sums end here.
    """

    tile: Expr
    number: Expr
    segment: Expr
    blocks: Expr
    first: Expr
    origin: Expr
    bias: Expr | None
    last: bool


@dataclass(frozen=True)
class Strip:
    """Outputs `line` to `line + size` of a span, `offset` in their block; vectors `start` to `start + count`."""

    line: Expr
    offset: int
    size: int
    start: Expr
    count: int


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
        self.sums = -(-self.panel.size // lanes) * lanes + MARGIN  # where sums begin in scratch
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
            self.panel.fill(k, tile)
            origin = self.panel.origin(tile) if self.panel.direct else 0
            spans = self.cut.spans
            with T.serial(over(part * spans, k.parts), over((part + 1) * spans, k.parts)) as span:
                self._span(k, tile, span, origin)

    def _span(self, k: Frame, tile: Expr, span: Expr, origin: Expr) -> None:
        """All stretches of inputs for one span of blocks."""
        T = builder()
        cut, block = self.cut, self.schedule.block
        group = left_over(tile, self.layer.groups)
        segment = bound((group * cut.spans + span) * cut.stretches * cut.span)
        blocks = bound(T.min(cut.span, cut.blocks - span * cut.span))
        bias = bound((group * cut.blocks + span * cut.span) * block)
        first = bound(span * cut.span * block)

        def stretch(number: Expr, last: bool) -> None:
            begin = bias if isinstance(number, int) and number == 0 else None
            here = segment + number * cut.span
            self._stretch(k, Stretch(tile, number, here, blocks, first, origin, begin, last))

        stretch(0, cut.stretches == 1)
        if cut.stretches > 2:
            with T.serial(1, cut.stretches - 1) as number:
                stretch(number, False)
        if cut.stretches > 1:
            stretch(cut.stretches - 1, True)
        if not self.panel.direct:
            count = T.min(blocks * block, self.layer.outputs - first)
            self.panel.keep(k, tile, self.sums, first, bound(count))

    def _stretch(self, k: Frame, at: Stretch) -> None:
        """All blocks of a span for one stretch of inputs."""
        T = builder()
        block = self.schedule.block
        with T.serial(0, at.blocks) as number:
            edges = [bound(k.starts[at.segment + number + i]) for i in (0, 1)]

            def strips(start: Expr, count: int) -> None:
                for offset in range(0, block, STRIP):
                    size = min(STRIP, block - offset)
                    self._sums(k, at, Strip(number * block + offset, offset, size, start, count), *edges)

            def whole() -> None:
                for start, count in self.chunks():
                    strips(start, count)

            def some() -> None:
                with T.serial(0, self.panel.valid(k, at.tile)) as start:
                    strips(start, 1)

            full = self.panel.full(k, at.tile)
            whole() if full is None else either(full, whole, some)

    def chunks(self) -> list[tuple[int, int]]:
        """(first, count) of the vectors that are summed at the same time, as even as they can be."""
        chunks = -(-self.panel.width // self.schedule.registers)
        edges = [self.panel.width * i // chunks for i in range(chunks + 1)]
        return [(a, b - a) for a, b in pairwise(edges)]

    def _sums(self, k: Frame, at: Stretch, strip: Strip, start: Expr, stop: Expr) -> None:
        """Sums of a strip over the entries from `start` to `stop`."""
        T = builder()
        many = strip.size * strip.count
        copies = self.schedule.unroll
        chains = copies if many * copies <= CHAINS else 1
        sums = [vectors(many, self.lanes) for _ in range(chains)]
        for chain, own in enumerate(sums):
            for i, each in enumerate(own):
                begin = spread(T.float32(0), self.lanes) if chain else self._begin(k, at, strip, i)
                store(each, 0, begin, self.lanes)
        whole = bound(over(stop - start, copies))
        with T.serial(0, whole) as step:
            for copy in range(copies):
                self._add(k, at, strip, start + step * copies + copy, sums[copy % chains])
        if copies > 1:
            with T.serial(start + whole * copies, stop) as entry:
                self._add(k, at, strip, entry, sums[0])
        for i, each in enumerate(sums[0]):
            for other in sums[1:]:
                store(each, 0, load(each, 0, self.lanes) + load(other[i], 0, self.lanes), self.lanes)
            self._end(k, at, strip, i, each)

    def _waiting(self, strip: Strip, i: int) -> Expr:
        """Where a vector of sums waits between stretches."""
        output, vector = divmod(i, strip.count)
        return self.sums + (strip.line + output) * self.line + (strip.start + vector) * self.lanes

    def _begin(self, k: Frame, at: Stretch, strip: Strip, i: int) -> Expr:
        if at.bias is None:
            return load(k.scratch, self._waiting(strip, i), self.lanes)
        return spread(k.bias[at.bias + strip.line + i // strip.count], self.lanes)

    def _add(self, k: Frame, at: Stretch, strip: Strip, entry: Expr, sums: list[Any]) -> None:
        """Adds the products of one entry to all sums."""
        place = bound(at.number * self.panel.stretch + k.offset(entry) + strip.start * self.lanes)
        here = entry * self.schedule.block + strip.offset
        weights = [spread(k.values[here + o], self.lanes) for o in range(strip.size)]
        weights = list(map(bound, weights)) if strip.count > 1 else weights
        for v in range(strip.count):
            x = load(k.scratch, place + v * self.lanes, self.lanes)
            x = bound(x) if strip.size > 1 else x
            for o in range(strip.size):
                each = sums[o * strip.count + v]
                store(each, 0, load(each, 0, self.lanes) + weights[o] * x, self.lanes)

    def _end(self, k: Frame, at: Stretch, strip: Strip, i: int, sums: Any) -> None:
        output, vector = divmod(i, strip.count)
        if not (at.last and self.panel.direct):
            store(k.scratch, self._waiting(strip, i), load(sums, 0, self.lanes), self.lanes)
            return
        number = at.first + strip.line + output
        target = at.origin + number * self.panel.area
        if self.layer.outputs % self.schedule.block == 0:
            self.panel.put(k, target, strip.start + vector, sums)
            return
        with when(number < self.layer.outputs):
            self.panel.put(k, target, strip.start + vector, sums)
