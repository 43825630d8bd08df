"""Which schedules are worth trying for a layer: from the pattern of its zeros, its shape and the processor.

The pattern is read off the zeros: a block size is possible where hardly any zero would have to be stored.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from pruneopt.backends.tvm.cost import cycles
from pruneopt.backends.tvm.layer import STRIP, Image, Layer, Schedule
from pruneopt.backends.tvm.packing import WINDOW, Floats
from pruneopt.backends.tvm.templates.image import layouts
from pruneopt.backends.tvm.templates.positions import Positions

BLOCKS = (64, 32, 16, 8, 4)
SHORT = 28  # lines of a channel that stay in the first cache at the widths that images have
SLACK = 1.1  # stored numbers for each non-zero, at most, for a block size to be possible
FAST = (24 << 10, 40 << 10)  # bytes of panel that may stay in the first cache
MIXED = (1, 2, 4)  # outputs with zeros of their own that are worked off together
ALL = {4: 32, 8: 16, 16: 32}  # vector registers, by lanes
LOOKED_UP = 16  # lanes of the vectors out of which others pick their numbers: those of AVX-512
FEW = 8  # rows up to which that may be faster than rows in the lanes
REGISTERS = {4: 24, 8: 12, 16: 24}  # vectors of sums that leave room for the others, by lanes


def blocks(weight: Floats) -> list[int]:
    """Numbers of neighbouring outputs that share their zeros in `weight` [groups, outputs, inputs], largest first."""
    groups, outputs, inputs = weight.shape
    stored = np.count_nonzero(weight)
    found = []
    for block in BLOCKS:
        padded = np.zeros((groups, -(-outputs // block) * block, inputs), bool)
        padded[:, :outputs] = weight != 0
        kept = padded.reshape(groups, -1, block, inputs).any(axis=2).sum() * block
        if kept <= SLACK * stored and outputs >= block:
            found.append(block)
    return [*found, 1] if not found else found[:2]


def candidates(layer: Layer, block: int, n: int, lanes: int, density: float) -> dict[Schedule, float]:
    """Schedules and about how many cycles each takes, the fastest first; `n` is the number of rows or images.

    `block` neighbouring outputs share their zeros.
    """
    if layer.depthwise:
        return dict.fromkeys(_depthwise(layer), 1.0)  # few enough to try all
    every: list[Schedule] = []
    if layer.image is None and (block > 1 or n == 1):
        every += _outputs(block, n, lanes)
    if layer.image is None and block < lanes // 2 and lanes == LOOKED_UP and n <= FEW:
        every += _lookups(layer, n, lanes)
    for size in MIXED if block == 1 else (block,):
        found = _lines(layer, size, lanes) if layer.image else _rows(layer, size, n, lanes)
        if size > block:
            found = [replace(each, mixed=True) for each in found if each.layout != "masked"]
        every += found
    estimates = {each: cycles(layer, each, n, lanes, density) for each in every}
    return dict(sorted(estimates.items(), key=lambda pair: pair[1]))


def family(schedule: Schedule) -> tuple[str, int]:
    """Schedules whose estimates are wrong by about the same factor, which depends on the processor."""
    return schedule.template, schedule.block


def varied(ranked: Iterable[Schedule]) -> list[Schedule]:
    """One of each kind first: tile and span alone matter least."""
    kinds: dict[Schedule, list[Schedule]] = {}
    for each in ranked:
        kinds.setdefault(replace(each, tile=0, span=0), []).append(each)
    return [kind[0] for kind in kinds.values()] + [each for kind in kinds.values() for each in kind[1:]]


def _outputs(block: int, n: int, lanes: int) -> list[Schedule]:
    wide = max(1, block // min(lanes, block))
    found = []
    for rows in (1, 4, 6, 8, 12, 16, 24):
        if rows * wide <= REGISTERS[lanes] and (rows <= n or rows == 1):
            repeats = (1, 4) if rows < n else (1,)
            found += [Schedule("outputs", block, rows * repeat, rows) for repeat in repeats]
    return [each for each in found if each.registers >= min(4, n)]


def _lookups(layer: Layer, n: int, lanes: int) -> list[Schedule]:
    """Weights of a block are read once for all rows: they are more than what is read of those."""
    return [
        Schedule("lookup", wide * lanes, FEW, rows)
        for rows in (1, 2, 4)
        for wide in (1, 2, 4)
        if rows <= n and layer.inputs >= WINDOW and wide * lanes <= max(lanes, layer.outputs)
    ]


def _vectors(block: int, lanes: int) -> tuple[int, ...]:
    """Numbers of vectors of positions whose sums fit into registers, beside what is held of weights and x."""
    size = min(block, STRIP)
    fitting = (each for each in (*range(1, 9), 12, 14, 16) if each * size + min(each, size) < ALL[lanes] - 2)
    return tuple(fitting) or (1,)


def _rows(layer: Layer, block: int, n: int, lanes: int) -> list[Schedule]:
    found = []
    for registers in _vectors(block, lanes):
        for tile in {registers * lanes * times for times in (1, 2, 4)}:
            if tile >= 2 * n and tile > lanes:
                continue
            for depth in _depths(layer.inputs, 4 * registers * lanes, lanes):
                for span in {0, max(1, 64 // block)}:
                    found.append(Schedule("positions", block, tile, registers, depth, span))
    return found


def _lines(layer: Layer, block: int, lanes: int) -> list[Schedule]:
    image = layer.image
    assert image is not None
    found = []
    for registers in _vectors(block, lanes):
        if image.pointwise:
            pixels = image.out[0] * image.out[1]
            sizes = [min(pixels, registers * lanes * times) for times in (1, 2, 4, 8, 16)]
            tiles = {
                -(-pixels // part // lanes) * lanes
                for part in {-(-pixels // tile) for tile in sizes} | {1, 2}
            }
        else:
            tiles = {lines for lines in (1, 2, 4, 7, 8, 14, 28) if lines <= image.out[0]}
        for tile in tiles:
            wide = 1 if image.pointwise else image.out[1]
            plane = (tile + image.kernel[0] - 1) * wide * image.kernel[1] * 4
            for depth in _depths(layer.channels, plane, 1):
                for span in {0, max(1, 64 // block)}:
                    for layout in _layouts(image, block, tile, lanes):
                        first = Schedule("positions", block, tile, registers, depth, span, layout=layout)
                        largest = max(each for _, each in Positions(layer, first, lanes).parts())
                        found.append(replace(first, registers=largest))
    return found


def _layouts(image: Image, block: int, tile: int, lanes: int) -> list[str]:
    """In place, only the end of an image may be less than a vector. Masks take registers, through which vectors go for
    several outputs."""
    never = {"inplace"} if tile % lanes else set()
    return [
        each for each in layouts(image, lanes) if each not in never | ({"masked"} if block < 4 else set())
    ]


def _depthwise(layer: Layer) -> list[Schedule]:
    """Lines that divide the image come first; tiles are as high as can be, or such that their lines stay in cache."""
    assert layer.image is not None
    high = layer.image.out[0]
    rows = sorted(range(1, min(high, 8) + 1), key=lambda each: (high % each > 0, abs(each - 4)))
    found = [Schedule("depthwise", 1, tile, each) for each in rows[:4] for tile in (min(high, SHORT), high)]
    return list(dict.fromkeys(found))


def _depths(inputs: int, size: int, step: int) -> set[int]:
    """All inputs at a time, or as many of `size` bytes as a cache holds, evened out to a multiple of `step`."""
    found = {0}
    for room in FAST:
        stretches = -(-inputs // max(1, room // size))
        depth = -(-inputs // stretches // step) * step
        found.add(0 if depth >= inputs else depth)
    return found
