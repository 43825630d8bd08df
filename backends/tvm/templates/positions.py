"""Any pattern, rows and images: rows or pixels lie in the lanes of a vector.

A tile's inputs are first laid out as a panel in `scratch`, one line of positions for each input: all of them, or one
stretch at a time where outputs are not cut into spans. Then, for each block of outputs and `registers` vectors of
positions,

    sums[output] += values[entry, output] * panel[place(entry) + position]

goes through the entries of one stretch of inputs at a time, so that its part of the panel stays in the first
cache. If the outputs of a block have zeros of their own (`mixed`), there is a loop for each mask of outputs: what
is loaded of the panel serves as many of them as it can. Sums wait in `scratch` between stretches, and after the
last where they must be turned. The panel (`rows.Rows` or `image.Pixels`) knows how inputs become positions and how
sums become outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

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
from pruneopt.backends.tvm.templates.pieces import Chunk, Entries, Stretch, Strip, chunked, share_of, split

CHAINS = 4  # sums in flight that hide the latency of an addition
MARGIN = 64  # floats behind the panel that a last vector may read


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
            if not self.cut.streamed:
                self.panel.fill(k, tile, None)
            ends = self.panel.begin(tile), self.panel.origin(tile) if self.panel.direct else 0
            with T.serial(*share_of(k, part, self.cut.spans)) as span:
                self._span(k, tile, span, ends)

    def _span(self, k: Frame, tile: Expr, span: Expr, ends: tuple[Expr, Expr]) -> None:
        """All stretches of inputs for one span of blocks."""
        T = builder()
        cut, block = self.cut, self.schedule.block
        group = left_over(tile, self.layer.groups)
        segment = bound((group * cut.spans + span) * cut.stretches * cut.span)
        blocks = bound(T.min(cut.span, cut.blocks - span * cut.span))
        bias = bound((group * cut.blocks + span * cut.span) * block)
        first = bound(span * cut.span * block)
        if cut.stretches == 1:
            self._stretch(k, Stretch(tile, 0, segment, blocks, first, bias, *ends))
        else:
            with T.serial(0, cut.stretches) as number:
                if cut.streamed:
                    self.panel.fill(k, tile, number)
                here = bound(segment + number * cut.span)
                self._stretch(k, Stretch(tile, number, here, blocks, first, bias, *ends))
        if not self.panel.direct:
            count = T.min(blocks * block, self.layer.outputs - first)
            self.panel.keep(k, tile, self.sums, first, bound(count))

    def _stretch(self, k: Frame, at: Stretch) -> None:
        """All blocks of a span for one stretch of inputs."""
        T = builder()
        cut, block = self.cut, self.schedule.block
        with T.serial(0, at.blocks) as i:
            segment = bound(at.segment + i)
            line = bound(k.starts[cut.numbers + segment] * block)
            edges = [bound(k.starts[segment * cut.masks + i]) for i in range(cut.masks + 1)]
            first = bound(k.starts[cut.firsts + segment]) if self.schedule.mixed else 0

            def strips(chunk: Chunk) -> None:
                size = self.schedule.strip
                for offset in range(0, block, size):
                    self._sums(k, at, Strip(line + offset, offset, size, chunk), edges, first)

            self._chunks(strips) if self.panel.direct else self._some(self.panel.valid(k, at.tile), strips)

    def _chunks(self, each: Callable[[Chunk], None]) -> None:
        """Emit `each` for all chunks of a tile; what repeats itself in a loop."""
        panel = self.panel
        repeats, many, rest = self.chunks()
        if repeats:
            with builder().serial(0, repeats) as i:
                for start, count in split(0, many * panel.period, self.schedule.registers):
                    each(Chunk(i * (many * panel.period) + start, count, start, i * (many * panel.passed)))
        for start, count in rest:
            each(Chunk(start, count, start))

    def _some(self, valid: Expr, each: Callable[[Chunk], None]) -> None:
        """Emit `each` for chunks of `valid` vectors: as many as there are registers for, then powers of two."""
        chunked(valid, self.schedule.registers, lambda start, count: each(Chunk(start, count, 0)))

    def parts(self) -> list[tuple[int, int]]:
        """(first, count) of all chunks of a full tile."""
        repeats, many, rest = self.chunks()
        inner = split(0, many * self.panel.period, self.schedule.registers)
        again = [
            (i * many * self.panel.period + start, count) for i in range(repeats) for start, count in inner
        ]
        return again + rest

    def chunks(self) -> tuple[int, int, list[tuple[int, int]]]:
        """So many repeats of so many periods, and (first, count) of the vectors left over."""
        panel, registers = self.panel, self.schedule.registers
        turns = -(-panel.periods // max(1, registers // panel.period))
        many = -(-panel.periods // max(1, turns))
        repeats = panel.periods // many if many else 0
        return repeats, many, split(repeats * many * panel.period, panel.width, registers)

    def _sums(self, k: Frame, at: Stretch, strip: Strip, edges: list[Expr], first: Expr) -> None:
        """Sums of a strip over the entries of a segment, whose masks' entries begin at `edges`."""
        many = strip.size * strip.chunk.count
        sums = [vectors(many, self.lanes) for _ in range(-(-CHAINS // many))]
        for chain in sums[1:]:
            for each in chain:
                store(each, 0, spread(builder().float32(0), self.lanes), self.lanes)
        self._begin(k, at, strip, sums[0])
        for mask, (start, stop) in enumerate(pairwise(edges)):
            if self.schedule.mixed:
                outputs = tuple(o for o in range(strip.size) if mask + 1 >> o & 1)
                entries = Entries(start, stop, outputs, first, len(outputs))
                first = bound(first + (stop - start) * len(outputs))
            else:
                outputs = tuple(range(strip.size))
                value = start * self.schedule.block + (stop - start) * strip.offset
                entries = Entries(start, stop, outputs, value, strip.size, mask)
            self._loop(k, at, strip, entries, sums)
        for i, each in enumerate(sums[0]):
            for other in sums[1:]:
                store(each, 0, load(each, 0, self.lanes) + load(other[i], 0, self.lanes), self.lanes)
        self._end(k, at, strip, sums[0])

    def _loop(self, k: Frame, at: Stretch, strip: Strip, entries: Entries, sums: list[list[Any]]) -> None:
        """Adds the products of all entries, to each of several `sums` in turn."""
        T = builder()
        copies = len(sums)
        whole = bound(over(entries.stop - entries.start, copies))
        with T.serial(0, whole) as step:
            for copy in range(copies):
                self._add(k, at, strip, entries, step * copies + copy, sums[copy])
        if copies > 1:
            with T.serial(whole * copies, entries.stop - entries.start) as i:
                self._add(k, at, strip, entries, i, sums[0])

    def _add(self, k: Frame, at: Stretch, strip: Strip, entries: Entries, i: Expr, sums: list[Any]) -> None:
        """Adds the products of the `i`-th of the entries to the sums of its outputs.

        What there is less of, weights or x, is held; all of both would not fit into the registers beside the sums.
        """
        lanes, count = self.lanes, strip.chunk.count
        begin = at.inputs + at.number * self.panel.stretch + strip.chunk.start * lanes
        place = bound(begin + k.offset(entries.start + i))
        value = bound(entries.value + i * entries.step)
        outputs = list(enumerate(entries.outputs))

        def weight(number: int) -> Expr:
            return spread(k.values[value + number], lanes)

        def x(vector: int) -> Expr:
            number = strip.chunk.vector + vector
            return self.panel.load(k, place + vector * lanes, number, entries.column)

        def add(output: int, vector: int, weight: Expr, x: Expr) -> None:
            each = sums[output * count + vector]
            store(each, 0, load(each, 0, lanes) + weight * x, lanes)

        if count < len(outputs):
            held = [bound(x(v)) for v in range(count)]
            for number, output in outputs:
                one = bound(weight(number)) if count > 1 else weight(number)
                for v, each in enumerate(held):
                    add(output, v, one, each)
            return
        weights = [bound(weight(number)) if count > 1 else weight(number) for number, _ in outputs]
        for v in range(count):
            one = bound(x(v)) if len(outputs) > 1 else x(v)
            for number, output in outputs:
                add(output, v, weights[number], one)

    def _waiting(self, strip: Strip, i: int) -> Expr:
        """Where a vector of sums waits between stretches."""
        output, vector = divmod(i, strip.chunk.count)
        return self.sums + (strip.line + output) * self.line + (strip.chunk.start + vector) * self.lanes

    def _begin(self, k: Frame, at: Stretch, strip: Strip, sums: list[Any]) -> None:
        """Sums begin with the bias, and go on where the stretch before has left them."""

        def bias() -> None:
            for i, each in enumerate(sums):
                value = k.bias[at.bias + strip.line + i // strip.chunk.count]
                store(each, 0, spread(value, self.lanes), self.lanes)

        def waiting() -> None:
            for i, each in enumerate(sums):
                store(each, 0, load(k.scratch, self._waiting(strip, i), self.lanes), self.lanes)

        bias() if self.cut.stretches == 1 else either(at.number == 0, bias, waiting)

    def _end(self, k: Frame, at: Stretch, strip: Strip, sums: list[Any]) -> None:
        """Sums go where they wait, or after the last stretch to `y` if the panel can put them there."""

        def wait() -> None:
            for i, each in enumerate(sums):
                store(k.scratch, self._waiting(strip, i), load(each, 0, self.lanes), self.lanes)

        def put() -> None:
            for i, each in enumerate(sums):
                self._put(k, at, strip, i, each)

        if not self.panel.direct:
            wait()
        elif self.cut.stretches == 1:
            put()
        else:
            either(at.number == self.cut.stretches - 1, put, wait)

    def _put(self, k: Frame, at: Stretch, strip: Strip, i: int, sums: Any) -> None:
        output, vector = divmod(i, strip.chunk.count)
        number = at.first + strip.line + output
        target = at.origin + number * self.panel.area + strip.chunk.passed
        if self.layer.outputs % self.schedule.block == 0:
            self.panel.put(k, target, strip.chunk.vector + vector, sums)
            return
        with when(number < self.layer.outputs):
            self.panel.put(k, target, strip.chunk.vector + vector, sums)
