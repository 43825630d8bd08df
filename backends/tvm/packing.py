"""Lays the non-zeros of a weight out in the order in which a kernel reads them.

A weight [groups, outputs, inputs] becomes three arrays. Blocks of `block` neighbouring outputs share their zeros.
Segments follow each other as (group, span of blocks, stretch of inputs, block in the span); entries of a segment
are the inputs where any output of the block is not zero:

- values [entries, block]: the weights, zeros where a single one of them is zero;
- offsets [entries]: where the kernel finds that input, from the start of its stretch;
- starts [segments + 1]: the first entry of each segment.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pruneopt.backends.tvm.layer import OFFSET_LIMIT, Layer, Schedule

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Order:
    """How a weight is cut: `blocks` per group in `spans` of `span`, inputs in `stretches` of `depth`."""

    block: int
    blocks: int
    span: int
    spans: int
    depth: int
    stretches: int

    @property
    def segments(self) -> int:
        """Segments of one group; those beyond the last block are empty."""
        return self.spans * self.stretches * self.span


@dataclass(frozen=True)
class Packed:
    """The arrays of the module's docstring, and the bias [groups * blocks * block], zeros where there is none."""

    values: Floats
    offsets: npt.NDArray[np.uint16] | npt.NDArray[np.int32]
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
    return Order(schedule.block, blocks, span, -(-blocks // span), depth, -(-layer.inputs // depth))


def pack(weight: Floats, bias: Floats | None, layer: Layer, schedule: Schedule, places: Ints) -> Packed:
    """The non-zeros of `weight` [groups, outputs, inputs].

    `places` [order.depth] is where the kernel holds each input of a stretch.
    """
    cut = order(layer, schedule)
    padded = np.zeros((layer.groups, cut.blocks * cut.block, layer.inputs), np.float32)
    padded[:, : layer.outputs] = weight
    blocks = padded.reshape(layer.groups, cut.blocks, cut.block, layer.inputs)
    group, block, column = np.nonzero(np.any(blocks != 0, axis=2))
    stretch = column // cut.depth
    segment = (
        (group * cut.spans + block // cut.span) * cut.stretches + stretch
    ) * cut.span + block % cut.span
    sequence = np.lexsort((column, segment))
    counts = np.bincount(segment, minlength=layer.groups * cut.segments)
    offsets = places[column % cut.depth][sequence]
    kind = np.uint16 if places.max(initial=0) < OFFSET_LIMIT else np.int32
    return Packed(
        np.ascontiguousarray(blocks[group, block, :, column][sequence]),
        offsets.astype(kind),
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
        _padded_bias(bias, layer, cut),
    )


def _padded_bias(bias: Floats | None, layer: Layer, cut: Order) -> Floats:
    padded = np.zeros((layer.groups, cut.blocks * cut.block), np.float32)
    if bias is not None:
        padded[:, : layer.outputs] = bias.reshape(layer.groups, layer.outputs)
    return padded.ravel()
