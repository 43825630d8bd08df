"""Images [B, C, H, W] as a panel, and sums as images.

A tile is a number of output lines. Of each channel the panel holds the input lines that the tile needs, padded
with zeros, once for each column of taps: shifted, so that the positions of any tap are neighbours and, unless the
layout is tight, begin where vectors do. Or once for all of them (`masked`), where what lies beyond a line is masked
out. With vertical strides, every other line forms a plane of its own ("phase"). All positions of a tile
are one run of `lines * pitch`, where the last positions of a line mean nothing and are not stored.
A pointwise convolution is an image of one column: its tile is any number of pixels, and it may be read in place.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import lcm
from typing import Any

import numpy as np

from pruneopt.backends.tvm.layer import Image, Layer, Schedule
from pruneopt.backends.tvm.packing import Ints, Order
from pruneopt.backends.tvm.templates.activation import activated
from pruneopt.backends.tvm.templates.frame import (
    Expr,
    Frame,
    bound,
    builder,
    either,
    left_over,
    load,
    load_some,
    over,
    spread,
    store,
    widths,
)
from pruneopt.backends.tvm.templates.pieces import stretch

WASTE = 1 / 7  # share of positions that may mean nothing, so that lines begin where vectors do
UNROLLED = 16  # vectors that are copied without a loop


def layouts(image: Image, lanes: int) -> list[str]:
    """Those that are possible and differ."""
    if image.pointwise:
        return ["aligned", "inplace"]
    found = ["aligned", "tight"] if image.out[1] % lanes else ["aligned"]
    wide = (image.kernel[1] - 1) * image.dilations[1]
    same = image.strides == (1, 1) and image.size[1] == image.out[1] > wide
    return [*found, "masked"] if same and 0 < wide <= lanes and image.padding[1] <= lanes else found


def column(image: Image) -> Image:
    """A pointwise convolution's image as one column; others as they are."""
    if not image.pointwise:
        return image
    pixels = (image.size[0] * image.size[1], 1)
    return replace(image, size=pixels, out=pixels)


def _pitch(columns: int, lanes: int, layout: str) -> int:
    """Positions from line to line: where lines are aligned, a multiple of a vector, or of a part that wastes little."""
    if layout != "aligned":
        return columns
    wide = 1
    while wide < lanes and -columns % (2 * wide) <= WASTE * columns:
        wide *= 2
    return -(-columns // wide) * wide


class Pixels:
    """A tile of `schedule.tile` output lines. Tiles at the lower end overlap."""

    direct = True

    def __init__(self, layer: Layer, schedule: Schedule, cut: Order, lanes: int) -> None:
        assert layer.image is not None
        self.layer = layer
        self.lanes = lanes
        image = self.image = column(layer.image)
        self.lines = min(schedule.tile, image.out[0])
        self.tiles = -(-image.out[0] // self.lines)
        rows = [tap * image.dilations[0] for tap in range(image.kernel[0])]
        self.phases = sorted({row % image.strides[0] for row in rows})
        self.masks = schedule.layout == "masked"
        self.taps = [tap * image.dilations[1] for tap in range(image.kernel[1])]
        self.shifts = [image.padding[1]] if self.masks else self.taps
        self.lead = lanes if self.masks else 0  # where the first line begins: taps reach before it
        self.height = self.lines + rows[-1] // image.strides[0]
        self.pitch = _pitch(image.out[1], lanes, schedule.layout)
        self.plane = -(-self.height * self.pitch // lanes) * lanes if self.pitch > 1 else self.lines
        self.area = image.out[0] * image.out[1]
        self.inplace = schedule.layout == "inplace"
        laid_out = len(self.phases) * len(self.shifts) * self.plane  # floats of a channel in the panel
        self.channel = self.area if self.inplace else laid_out  # from one channel to the next
        self.depth = cut.depth // layer.taps
        self.read = self.depth * laid_out
        held = 0 if self.inplace else self.depth if cut.streamed else layer.channels
        self.size = held * laid_out + self.lead
        self.stretch = 0 if cut.streamed and not self.inplace else self.depth * self.channel
        positions = (self.lines - 1) * self.pitch + image.out[1]
        self.width = -(-positions // lanes)
        self.period = lcm(self.pitch, lanes) // lanes
        lines = self.period * lanes // self.pitch
        self.passed = lines * image.out[1]
        self.periods = self.lines // lines

    def places(self) -> Ints:
        image = self.image
        rows = [divmod(tap * image.dilations[0], image.strides[0]) for tap in range(image.kernel[0])]
        columns = [
            self.lead + tap - image.padding[1] if self.masks else number * self.plane
            for number, tap in enumerate(self.taps)
        ]
        taps = [
            self.phases.index(phase) * len(self.shifts) * self.plane + line * self.pitch + column
            for line, phase in rows
            for column in columns
        ]
        return np.asarray((np.arange(self.depth)[:, None] * self.channel + np.array(taps)).ravel(), np.int64)

    def _top(self, tile: Expr) -> Expr:
        """First output line of a tile."""
        T = builder()
        return bound(
            T.min(
                left_over(over(tile, self.layer.groups), self.tiles) * self.lines,
                self.image.out[0] - self.lines,
            )
        )

    def _channel(self, tile: Expr, channels: int) -> Expr:
        """Number of the first of `channels` channels per group, counted over all images."""
        groups = self.layer.groups
        return bound((over(tile, groups * self.tiles) * groups + left_over(tile, groups)) * channels)

    def begin(self, tile: Expr) -> Expr:
        if not self.inplace:
            return 0
        return bound(self._channel(tile, self.layer.channels) * self.area + self._top(tile))

    def fill(self, k: Frame, tile: Expr, number: Expr | None) -> None:
        if self.inplace:
            return
        T = builder()
        height, width = self.image.size
        before, count = stretch(self.layer.channels, self.depth, number)
        top, first = self._top(tile), bound(self._channel(tile, self.layer.channels) + before)
        with T.serial(0, count) as c:
            source, target = bound((first + c) * height * width), bound(self.lead + c * self.channel)
            for number, (row, start) in enumerate((r, s) for r in self.phases for s in self.shifts):
                self._plane(k, source, target + number * self.plane, top, row, start)

    def _plane(self, k: Frame, source: Expr, target: Expr, top: Expr, row: int, start: int) -> None:
        """One plane: input lines `row`, `row + stride`, ... counted from the tile's first, columns from `start` on."""
        T = builder()
        image = self.image
        (height, width), (down, right) = image.size, image.strides
        shift = start - image.padding[1]  # input column of the panel's first
        left = min(max(0, -(shift // right)), image.out[1])
        stop = max(left, min(image.out[1], -(-(width - shift) // right)))
        edges = [(0, left), (stop, image.out[1] - stop)]  # columns that are padding
        inside = (
            image.padding[0] == 0
            and (image.out[0] - 1) * down + row + (self.height - self.lines) * down < height
        )
        if right == down == 1 and self.pitch == width:
            self._lines(k, source, target, bound(top + row - image.padding[0]), inside, shift, edges)
            return
        with T.serial(0, self.height) as line:
            wanted = bound((top + line) * down + row - image.padding[0])
            at = bound(target + line * self.pitch)

            def copy() -> None:
                self._copy(k, at + left, source + wanted * width + left * right + shift, stop - left, right)
                for column, count in edges:
                    self._zero(k, at + column, count)

            if inside:
                copy()
            else:
                either(T.And(wanted >= 0, wanted < height), copy, lambda: self._zero(k, at, image.out[1]))

    def _lines(
        self, k: Frame, source: Expr, target: Expr, first: Expr, inside: bool, shift: int, edges: list[Any]
    ) -> None:
        """A plane whose lines are as long as those of the image, from its line `first` on: one run is copied."""
        T = builder()
        height, width = self.image.size
        skipped = max(0, -shift)  # numbers of the first line that lie before the image
        begin = bound(source + first * width + skipped + shift)

        def whole() -> None:
            self._copy(k, target + skipped, begin, self.height * width - abs(shift), 1)
            self._edges(k, target, 0, self.height, edges)

        def some() -> None:
            top = bound(T.min(T.max(-first, 0), self.height))
            end = bound(T.max(top, T.min(height - first, self.height)))
            for start, stop in ((0, top), (end, self.height)):
                with T.serial(start, stop) as line:
                    self._zero(k, target + line * width, width)
            there, count = bound(top * width), bound((end - top) * width - abs(shift))
            self._run(k, bound(target + skipped + there), bound(begin + there), count)
            self._edges(k, target, top, end, edges)

        if inside:
            whole()
        else:
            either(T.And(first >= 0, first + self.height <= height), whole, some)

    def _edges(self, k: Frame, target: Expr, begin: Expr, end: Expr, edges: list[Any]) -> None:
        """Zeros at both ends of some lines of a plane."""
        if any(count for _, count in edges):
            with builder().serial(begin, end) as line:
                for column, count in edges:
                    self._zero(k, target + line * self.pitch + column, count)

    def _run(self, k: Frame, target: Expr, source: Expr, count: Expr) -> None:
        """A run whose length is known when it is copied."""
        T = builder()
        whole = bound(over(count, self.lanes))
        with T.serial(0, whole) as v:
            at = v * self.lanes
            store(k.scratch, target + at, load(k.x, source + at, self.lanes), self.lanes)
        with T.serial(whole * self.lanes, count) as i:
            store(k.scratch, target + i, k.x[source + i], 1)

    def _zero(self, k: Frame, target: Expr, count: int) -> None:
        for at, wide in widths(count, self.lanes):
            store(k.scratch, target + at, spread(builder().float32(0), wide), wide)

    def _copy(self, k: Frame, target: Expr, source: Expr, count: int, step: int) -> None:
        """`count` numbers, every `step`-th; the last vector overlaps the one before."""
        lanes = self.lanes

        def part(at: Expr, wide: int) -> None:
            store(k.scratch, target + at, load(k.x, source + at * step, wide, step), wide)

        if count < lanes:
            for at, wide in widths(count, lanes):
                part(at, wide)
            return
        if count // lanes > UNROLLED:
            with builder().serial(0, count // lanes) as v:
                part(v * lanes, lanes)
        else:
            for at in range(0, count - lanes + 1, lanes):
                part(at, lanes)
        if count % lanes:
            part(count - lanes, lanes)

    def load(self, k: Frame, place: Expr, vector: int, column: int) -> Expr:
        """In place no more than there is."""
        if self.inplace:
            return load_some(k.x, place, min(self.lanes, self.lines - vector * self.lanes), self.lanes)
        x = load(k.scratch, place, self.lanes)
        return self._masked(x, vector, column) if self.masks else x

    def _masked(self, x: Expr, vector: int, column: int) -> Expr:
        """`x` of a vector of positions, zeros in the lanes whose tap lies beside their line."""
        T = builder()
        shift = self.taps[column] - self.image.padding[1]
        at = [(vector * self.lanes + lane) % self.pitch + shift for lane in range(self.lanes)]
        beyond = [lane for lane, each in enumerate(at) if not 0 <= each < self.pitch]
        for lane in beyond:
            seen = T.ramp(0, 1, self.lanes) != T.broadcast(lane, self.lanes)
            x = T.Select(seen, x, spread(T.float32(0), self.lanes))
        return x

    def origin(self, tile: Expr) -> Expr:
        """Where in `y` the tile's first output begins."""
        channel = self._channel(tile, self.layer.outputs)
        return bound(channel * self.area + self._top(tile) * self.image.out[1])

    def put(self, k: Frame, target: Expr, vector: int, sums: Any) -> None:
        """Positions that belong to no output are left out."""
        lanes, target = self.lanes, bound(target)
        store(sums, 0, activated(load(sums, 0, lanes), lanes, self.layer.act), lanes)
        for lane, count, there in self._pieces(vector):
            for at, wide in widths(count, lanes):
                store(k.y, target + there + at, load(sums, lane + at, wide), wide)

    def _pieces(self, vector: int) -> Iterator[tuple[int, int, int]]:
        """(lane, count, place in the tile's output) of the runs of positions of a vector that are outputs."""
        columns = self.image.out[1]
        lines, columns = (1, self.lines * columns) if self.pitch == columns else (self.lines, columns)
        begin = vector * self.lanes
        for line in range(lines):
            start = max(begin, line * self.pitch)
            stop = min(begin + self.lanes, line * self.pitch + columns)
            if start < stop:
                yield start - begin, stop - start, line * columns + start - line * self.pitch
