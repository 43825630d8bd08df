"""Lays the non-zeros of a weight out in the order in which a kernel reads them.

A weight [groups, outputs, inputs] becomes three arrays. `block` neighbouring outputs are worked off together.
Segments follow each other as (group, span of blocks, stretch of inputs, block in the span), the blocks of a
stretch sorted by how many entries they have: loops that end after as many rounds as the one before are predicted.
Entries of a segment are the inputs where any output of the block is not zero:

- values [entries, block]: the weights, zeros where a single one of them is zero; within a segment first those of
  one strip of outputs, then those of the next. Of a `mixed` schedule the non-zeros alone: entries are sorted by
  the mask of outputs that they belong to, 1 to 2^block - 1. Of a `masked` layout they are sorted by column of taps;
- offsets [entries]: where the kernel finds that input, from the start of its stretch;
- starts: the first entry of each segment, or of each mask in it, and the end; then which block of the span each
  segment is; then, if `mixed`, the first value of each segment.

Entries of a `sliced` schedule hold one non-zero of each output of a block that has one in the entry's window of
inputs: values and offsets [entries, block], both zero where there is none. In `starts`, the windows come last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pruneopt.backends.tvm.layer import Layer, Schedule

WINDOW = 32  # inputs out of which the outputs of a sliced block pick theirs
SLID = 16  # inputs by which it moves at least: loads begin where vectors do
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Order:
    """How a weight is cut: `blocks` per group in `spans` of `span`, inputs in `stretches` of `depth`.

    A segment has entries of so many `masks`: of outputs, if those of a block have zeros of their own, or of lanes.
    """

    groups: int
    block: int
    blocks: int
    span: int
    spans: int
    depth: int
    stretches: int
    masks: int

    @property
    def streamed(self) -> bool:
        """Whether a stretch of inputs is worked through once, by all outputs: it need not be kept."""
        return self.spans == 1 and self.stretches > 1

    @property
    def segments(self) -> int:
        """How many there are; those beyond a group's last block are empty."""
        return self.groups * self.spans * self.stretches * self.span

    @property
    def numbers(self) -> int:
        """Where in `starts` the blocks' numbers begin."""
        return self.segments * self.masks + 1

    @property
    def firsts(self) -> int:
        """Where in `starts` the segments' first values begin."""
        return self.numbers + self.segments


@dataclass(frozen=True)
class Packed:
    """The arrays of the module's docstring, and the bias [groups * blocks * block], zeros where there is none."""

    values: Floats
    offsets: npt.NDArray[Any]
    starts: npt.NDArray[np.int32]
    bias: Floats

    @property
    def bytes(self) -> int:
        return self.values.nbytes + self.offsets.nbytes + self.starts.nbytes + self.bias.nbytes


def order(layer: Layer, schedule: Schedule) -> Order:
    """How `schedule` cuts the weight of `layer`."""
    blocks = -(-layer.outputs // schedule.block)
    span = min(schedule.span or blocks, blocks)
    depth = layer.inputs if schedule.depth == 0 else min(schedule.depth * layer.taps, layer.inputs)
    masks = (1 << schedule.block) - 1 if schedule.mixed else 1
    if layer.image is not None and schedule.layout == "masked":
        masks = layer.image.kernel[1]
    stretches = -(-layer.inputs // depth)
    return Order(layer.groups, schedule.block, blocks, span, -(-blocks // span), depth, stretches, masks)


def pack(weight: Floats, bias: Floats | None, layer: Layer, schedule: Schedule, places: Ints) -> Packed:
    """The non-zeros of `weight` [groups, outputs, inputs].

    `places` [order.depth] is where the kernel holds each input of a stretch.
    """
    cut = order(layer, schedule)
    padded = np.zeros((layer.groups, cut.blocks * cut.block, layer.inputs), np.float32)
    padded[:, : layer.outputs] = weight
    blocks = padded.reshape(layer.groups, cut.blocks, cut.block, layer.inputs)
    made = _sliced(blocks, cut, places) if schedule.sliced else _shared(blocks, schedule, cut, places)
    entries, offsets, starts = made
    return Packed(
        np.ascontiguousarray(entries),
        offsets.astype(offset_kind(places)),
        starts.astype(np.int32),
        _padded_bias(bias, layer, cut),
    )


def offset_kind(places: Ints) -> str:
    """The smallest type that holds all places."""
    most = int(places.max(initial=0))
    return "uint8" if most < 1 << 8 else "uint16" if most < 1 << 16 else "int32"


def _shared(blocks: Floats, schedule: Schedule, cut: Order, places: Ints) -> tuple[Floats, Ints, Ints]:
    """Values, offsets and starts of entries that all outputs of a block share, or those of a mask."""
    group, block, column = np.nonzero(np.any(blocks != 0, axis=2) | schedule.whole)
    entries = blocks[group, block, :, column]
    mask = (entries != 0) @ (1 << np.arange(cut.block)) - 1 if schedule.mixed else column % cut.masks
    stretch = (group * cut.spans + block // cut.span) * cut.stretches + column // cut.depth
    counts = np.zeros((cut.segments // cut.span, cut.span), np.int64)
    np.add.at(counts, (stretch, block % cut.span), 1)
    numbers = _sorted(counts, cut)
    place = np.argsort(numbers, axis=1)[stretch, block % cut.span]
    loop = (stretch * cut.span + place) * cut.masks + mask
    sequence = np.lexsort((column, loop))
    entries, offsets = entries[sequence], places[column % cut.depth][sequence]
    edges = np.concatenate([[0], np.cumsum(np.bincount(loop, minlength=cut.segments * cut.masks))])
    starts = [edges, numbers.ravel()]
    if schedule.mixed:
        stored = np.concatenate([[0], np.cumsum(np.count_nonzero(entries, axis=1))])
        starts.append(stored[edges[: -1 : cut.masks]])
        entries = entries[entries != 0]
    elif schedule.strip < cut.block:
        strips = entries.reshape(-1, schedule.strip)
        number = np.arange(len(strips)) % (cut.block // schedule.strip)
        entries = strips[np.lexsort((number, np.repeat(loop[sequence], cut.block // schedule.strip)))]
    return entries, offsets, np.concatenate(starts)


def _sliced(blocks: Floats, cut: Order, places: Ints) -> tuple[Floats, Ints, Ints]:
    """The same of entries that each output of a block has for itself, in windows of inputs that slide on."""
    group, block, output, column = np.nonzero(blocks)
    line = (group * cut.blocks + block) * cut.block + output
    entry, window = _slid(line, column, cut)
    counts = np.zeros((cut.groups, cut.blocks), np.int64)
    np.maximum.at(counts, (group, block), entry + 1)
    numbers = _sorted(counts, cut)
    edges = np.concatenate([[0], np.cumsum(np.take_along_axis(counts, numbers, axis=1))])
    entry += edges[group * cut.blocks + np.argsort(numbers, axis=1)[group, block]]
    values = np.zeros((edges[-1], cut.block), np.float32)
    offsets, windows = np.zeros(values.shape, np.int64), np.zeros(len(values), np.int64)
    values[entry, output] = blocks[group, block, output, column]
    offsets[entry, output] = places[column - window]
    windows[entry] = window
    return values, offsets, np.concatenate([edges, numbers.ravel(), windows])


def _slid(line: Ints, column: Ints, cut: Order) -> tuple[Ints, Ints]:
    """For each non-zero of a `line`, sorted: the entry of its block that holds it, and the first input of its window.

    The window of an entry is that of the first input that is left in the block.
    """
    lines = cut.groups * cut.blocks * cut.block
    at, end = np.searchsorted(line, np.arange(lines)), np.searchsorted(line, np.arange(lines), "right")
    last = max(0, cut.depth - WINDOW)
    entry, window = np.zeros(len(line), np.int64), np.zeros(len(line), np.int64)
    column = np.append(column, 0)
    number = 0
    while (at < end).any():
        next_one = np.where(at < end, column[at], cut.depth + WINDOW).reshape(-1, cut.block)
        start = np.minimum(next_one.min(axis=1, keepdims=True) // SLID * SLID, last)
        taken = (next_one < start + WINDOW).ravel()
        entry[at[taken]], window[at[taken]] = number, np.broadcast_to(start, next_one.shape).ravel()[taken]
        at = at + taken
        number += 1
    return entry, window


def _sorted(counts: Ints, cut: Order) -> Ints:
    """The blocks of each stretch [stretches, span], those with most entries first; what is no block comes last."""
    span = np.arange(len(counts)) // cut.stretches % cut.spans
    none = span[:, None] * cut.span + np.arange(cut.span) >= cut.blocks
    return np.asarray(np.argsort(none - counts, axis=1, kind="stable"), np.int64)


def _padded_bias(bias: Floats | None, layer: Layer, cut: Order) -> Floats:
    padded = np.zeros((layer.groups, cut.blocks * cut.block), np.float32)
    if bias is not None:
        padded[:, : layer.outputs] = bias.reshape(layer.groups, layer.outputs)
    return padded.ravel()
