"""Convolutions of one channel at a time, zeros or not: columns of a line lie in the lanes of a vector.

    for each channel, tile of output lines, `registers` lines, vector:  sums[line] += weights[tap] * x[line + tap]

All taps are held, and an input vector serves every output line that it reaches. Between sparse layers such a kernel
saves more than its own time: the runtime's own depthwise convolutions want images in another order.
"""

from __future__ import annotations

import numpy as np

from pruneopt.backends.tvm.layer import Layer, Schedule
from pruneopt.backends.tvm.packing import Ints
from pruneopt.backends.tvm.templates.activation import activated
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
    widths,
)


class Lines:
    """The input lines of a tile of `lines` output lines, padded; with strides, the columns of each remainder apart."""

    def __init__(self, layer: Layer, schedule: Schedule, lanes: int) -> None:
        image = layer.image
        assert image is not None
        self.image, self.lanes = image, lanes
        self.lines = min(schedule.tile, image.out[0])
        self.tiles = -(-image.out[0] // self.lines)
        self.height = (self.lines - 1) * image.strides[0] + (image.kernel[0] - 1) * image.dilations[0] + 1
        last = (image.kernel[1] - 1) * image.dilations[1] // image.strides[1]
        filled = -(-(image.size[1] + image.padding[1]) // image.strides[1])
        self.pitch = -(-max(max(image.out[1], lanes) + last, filled) // lanes) * lanes
        self.size = self.height * image.strides[1] * self.pitch + lanes

    def place(self, line: Expr, tap: int) -> Expr:
        """Where the first output column's input for a column of taps is."""
        shift, remainder = divmod(tap * self.image.dilations[1], self.image.strides[1])
        return (line * self.image.strides[1] + remainder) * self.pitch + shift

    def clear(self, k: Frame) -> None:
        """Zeros everywhere: what no input comes to stays so."""
        with builder().serial(0, self.size // self.lanes) as v:
            store(k.scratch, v * self.lanes, spread(builder().float32(0), self.lanes), self.lanes)

    def fill(self, k: Frame, channel: Expr, top: Expr) -> None:
        """The lines from `top` on, of input lines that there are."""
        T = builder()
        (height, width), (down, across) = self.image.size, self.image.strides
        with T.serial(0, self.height) as line:
            wanted = bound(top * down + line - self.image.padding[0])
            source = bound((channel * height + wanted) * width)
            target = bound(line * (across * self.pitch))
            either(
                T.And(wanted >= 0, wanted < height),
                lambda: self._line(k, source, target),
                lambda: self._blank(k, target),
            )

    def _line(self, k: Frame, source: Expr, target: Expr) -> None:
        """One line, its columns dealt out by their remainders."""
        width, across = self.image.size[1], self.image.strides[1]
        for at, wide in widths(width // across, self.lanes):
            read = [bound(load(k.x, source + at * across + i * wide, wide)) for i in range(across)]
            for i in range(across):
                store(k.scratch, target + self._column(at * across + i), _every(read, i, wide), wide)
        for column in range(width // across * across, width):
            store(k.scratch, target + self._column(column), k.x[source + column], 1)

    def _column(self, column: int) -> int:
        """Where an input column goes in its line."""
        number, remainder = divmod(column + self.image.padding[1], self.image.strides[1])
        return remainder * self.pitch + number

    def _blank(self, k: Frame, target: Expr) -> None:
        with builder().serial(0, self.image.strides[1] * self.pitch // self.lanes) as v:
            store(k.scratch, target + v * self.lanes, spread(builder().float32(0), self.lanes), self.lanes)


def _every(read: list[Expr], first: int, wide: int) -> Expr:
    """Every so many-th number of vectors that follow each other, as many as there are vectors, from `first` on."""
    from tvm.tirx import Shuffle

    if len(read) == 1 or wide == 1:
        return read[first]
    return Shuffle(read, [first + i * len(read) for i in range(wide)])


class Depthwise:
    """The template for one layer and schedule."""

    blocks = 1

    def __init__(self, layer: Layer, schedule: Schedule, lanes: int) -> None:
        image = layer.image
        assert image is not None
        self.layer, self.image = layer, image
        self.lanes = min(lanes, 1 << (image.out[1] - 1).bit_length())
        self.panel = Lines(layer, schedule, self.lanes)
        self.rows = min(schedule.registers, self.panel.lines)
        self.scratch = self.panel.size

    def places(self) -> Ints:
        """Where the kernel holds each input: taps are not looked up."""
        return np.arange(self.layer.taps)

    def emit(self, k: Frame) -> None:
        """The body of the kernel."""
        T = builder()
        panel, outputs = self.panel, self.layer.outputs
        panel.clear(k)
        with T.serial(k.first, k.last) as unit:
            tile = bound(over(unit, k.parts))
            channel = bound(over(tile, panel.tiles))
            top = bound(T.min(left_over(tile, panel.tiles) * panel.lines, self.image.out[0] - panel.lines))
            panel.fill(k, channel, top)
            with T.serial(0, outputs) as i:
                output = bound(left_over(channel, self.layer.groups) * outputs + i)
                line = (channel * outputs + i) * self.image.out[0] + top
                self._plane(k, output, line * self.image.out[1])

    def _plane(self, k: Frame, output: Expr, target: Expr) -> None:
        """The tile of one output, from `target` on in y; tiles of lines and vectors of columns overlap at the ends."""
        T = builder()
        taps, lines, columns = self.layer.taps, self.panel.lines, self.image.out[1]
        target = bound(target)
        bias = bound(spread(k.bias[output], self.lanes))
        weights = [bound(spread(k.values[output * taps + i], self.lanes)) for i in range(taps)]
        with (
            T.serial(0, -(-lines // self.rows)) as step,
            T.serial(0, -(-columns // self.lanes)) as vector,
        ):
            line = bound(T.min(step * self.rows, lines - self.rows))
            column = bound(T.min(vector * self.lanes, max(0, columns - self.lanes)))
            sums = vectors(self.rows, self.lanes)
            for each in sums:
                store(each, 0, bias, self.lanes)
            self._add(k, sums, weights, line, column)
            for row, each in enumerate(sums):
                self._put(k, target + (line + row) * columns + column, each, line + row == lines - 1)

    def _add(self, k: Frame, sums: list[Expr], weights: list[Expr], line: Expr, column: Expr) -> None:
        """Every input vector to all lines that it reaches."""
        (down, _), (over_lines, _), (high, wide) = self.image.strides, self.image.dilations, self.image.kernel
        start = bound(line * down)
        for offset in range((self.rows - 1) * down + (high - 1) * over_lines + 1):
            reached = [divmod(offset - tap * over_lines, down) for tap in range(high)]
            pairs = [(tap, row) for tap, (row, no) in enumerate(reached) if not no and 0 <= row < self.rows]
            for b in range(wide) if pairs else ():
                x = bound(load(k.scratch, self.panel.place(start + offset, b) + column, self.lanes))
                for tap, row in pairs:
                    total = load(sums[row], 0, self.lanes) + weights[tap * wide + b] * x
                    store(sums[row], 0, total, self.lanes)

    def _put(self, k: Frame, target: Expr, sums: Expr, last: Expr) -> None:
        """One vector of a line. What is too much is overwritten by the line that follows, if there is one."""
        store(sums, 0, activated(load(sums, 0, self.lanes), self.lanes, self.layer.act), self.lanes)

        def whole() -> None:
            store(k.y, target, load(sums, 0, self.lanes), self.lanes)

        def exactly() -> None:
            for at, wide in widths(self.image.out[1], self.lanes):
                store(k.y, target + at, load(sums, at, wide), wide)

        whole() if self.image.out[1] >= self.lanes else either(last, exactly, whole)
