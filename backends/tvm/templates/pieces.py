"""What the `positions` template cuts its work into: stretches of inputs, chunks of positions, strips of outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

from pruneopt.backends.tvm.templates.frame import Expr, Frame, bound, builder, left_over, over


class Panel(Protocol):
    """A tile's inputs by position, and where its sums go: by `put` where they are stored `direct`, else by `keep`."""

    size: int  # floats
    stretch: int  # floats from one stretch of inputs to the next; 0 where only one is there at a time
    read: int  # floats that are read for one stretch
    width: int  # positions of a full tile, in vectors
    period: int  # vectors after which lines begin where vectors do, again
    passed: int  # places in `y` that a period stands for, where sums are stored direct
    periods: int  # how many of them are full
    direct: bool
    area: int  # floats of one output, where sums are stored direct

    def places(self) -> Any:
        """Where each input of a stretch begins, [order.depth]."""

    def fill(self, k: Frame, tile: Expr, number: Expr | None) -> None:
        """Emit the code that lays the inputs of a tile out, all of them or those of one stretch."""

    def begin(self, tile: Expr) -> Expr:
        """Where a tile's inputs begin."""

    def load(self, k: Frame, place: Expr, vector: int, column: int) -> Expr:
        """Inputs at `place`, for the positions of a vector and a column of taps."""

    def valid(self, k: Frame, tile: Expr) -> Expr:
        """Vectors of the tile that hold positions; fewer than `width` only where sums are not stored direct."""

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
        bias: where its biases begin.
        inputs: where the tile's inputs begin.
        origin: where in `y` its first output begins.
    """

    tile: Expr
    number: Expr
    segment: Expr
    blocks: Expr
    first: Expr
    bias: Expr
    inputs: Expr
    origin: Expr


@dataclass(frozen=True)
class Chunk:
    """`count` vectors from `start` on; `vector` is the first of them, and `passed` places of `y` lie before that."""

    start: Expr
    count: int
    vector: int
    passed: Expr = 0


@dataclass(frozen=True)
class Strip:
    """Outputs `line` to `line + size` of a span, `offset` in their block, at some vectors of positions."""

    line: Expr
    offset: int
    size: int
    chunk: Chunk


@dataclass(frozen=True)
class Entries:
    """Entries `start` to `stop`, of which each has a value for some `outputs` of a strip; the first is at `value`.

    All are of one `column` of taps, where that matters.
    """

    start: Expr
    stop: Expr
    outputs: tuple[int, ...]
    value: Expr
    step: int
    column: int = 0


def stretch(inputs: int, depth: int, number: Expr | None) -> tuple[Expr, Expr]:
    """First and count of the inputs of a stretch, or of all; the last may have fewer than `depth`."""
    if number is None:
        return 0, inputs
    first = bound(number * depth)
    return first, depth if inputs % depth == 0 else bound(builder().min(inputs - first, depth))


def split(start: int, stop: int, most: int) -> list[tuple[int, int]]:
    """(first, count) of parts of `start` to `stop`, none larger than `most`, as even as they can be."""
    parts = -(-(stop - start) // most)
    edges = [start + (stop - start) * i // parts for i in range(parts + 1)] if parts else []
    return [(a, b - a) for a, b in pairwise(edges)]


def chunk_sizes(registers: int) -> list[int]:
    """`registers`, and the powers of two below."""
    return [registers, *(1 << bit for bit in reversed(range((registers - 1).bit_length())))]


def chunked(left: Expr, registers: int, each: Callable[[Expr, int], None]) -> None:
    """Emit `each(start, count)` for `left` rows or vectors, as many at a time as `chunk_sizes` says."""
    done: Expr = 0
    for count in chunk_sizes(registers):
        turns = bound(over(left - done, count))
        with builder().serial(0, turns) as i:
            each(bound(done + i * count), count)
        done = bound(done + turns * count)


def unit_of(k: Frame, unit: Expr, tile: int) -> tuple[Expr, Expr, Expr]:
    """Of a unit of work on rows: which part of the outputs, the first row, and how many."""
    part, top = bound(left_over(unit, k.parts)), bound(over(unit, k.parts) * tile)
    return part, top, bound(builder().min(k.n - top, tile))


def share_of(k: Frame, part: Expr, spans: int) -> tuple[Expr, Expr]:
    """First and last of the spans of outputs that a part is."""
    return bound(over(part * spans, k.parts)), bound(over((part + 1) * spans, k.parts))
