"""About how many cycles a schedule takes, so that the search begins with good ones. Plain arithmetic, no TVM.

Counted are multiply-adds, loads, the latency of sums, a mispredicted branch at the end of every run of entries,
and what is laid out before and turned after. Only the order of the estimates matters: the tuner measures.
"""

from __future__ import annotations

from collections import Counter
from math import gcd

from pruneopt.backends.tvm.layer import Layer, Schedule
from pruneopt.backends.tvm.packing import SLID, order
from pruneopt.backends.tvm.templates.outputs import CHAINS as PARTIAL
from pruneopt.backends.tvm.templates.pieces import chunk_sizes
from pruneopt.backends.tvm.templates.positions import CHAINS, Positions

CLOSE = 32 << 10  # bytes of panel that stay in the first cache beside everything else
MIDDLE = 512 << 10  # bytes that stay in the second cache
FAR = 0.9  # loads that one from the second cache is worth, beside itself
FARTHER = 3.0  # and one from the third
RAREST = 1e-6  # density of a weight that is nothing but zeros
LATENCY = 4  # cycles until a sum can be added to again
BRANCH = 20  # cycles that a mispredicted branch costs
MASK = 15  # cycles until the loop of the next mask runs
CROSSING = 0.4  # loads that one costs more where it begins in the middle of a vector
APART = 1.0  # and where numbers of one position lie far apart, in memory pages of their own
MOVED = 2  # cycles for each vector that is copied
FILLED = 4  # and for one that is copied from farther away
LOOKUP = 2  # cycles for the places and values of one step of lookups
LOOKED = 2  # and for the two vectors of a row
RUN = 15  # cycles until a run of numbers far from the last one is on its way from or to memory
TURNED = 7  # cycles for each vector that is transposed


def cycles(layer: Layer, schedule: Schedule, n: int, lanes: int, density: float) -> float:
    """Of `n` rows or images on one core; `density` is the share of inputs that a block of outputs reads."""
    if schedule.template == "outputs":
        return _outputs(layer, schedule, n, lanes, density)
    if schedule.template == "lookup":
        return _lookup(layer, schedule, n, lanes, density)
    return _positions(layer, schedule, n, lanes, density)


def _entry(multiplied: float, loaded: float, chains: float, lanes: int) -> float:
    """One entry: two multiply-adds and loads in a cycle, of 64 bytes, and sums that wait for the entry before."""
    return max(max(multiplied, loaded) * max(lanes / 16, 1 / 2), LATENCY / chains)


def _far(floats: int) -> float:
    """What a load of one of so many costs more than from the first cache."""
    return max(0.0, 1 - CLOSE / (4 * floats)) * FAR + max(0.0, 1 - MIDDLE / (4 * floats)) * FARTHER


def _outputs(layer: Layer, schedule: Schedule, n: int, lanes: int, density: float) -> float:
    wide = max(1, schedule.block // lanes)
    rows = min(schedule.registers, n)
    chains = max(PARTIAL // (rows * wide), 1)
    far = _far(rows * layer.inputs)
    each = _entry(rows * wide, rows * (1 + far) + wide, chains, lanes)
    turns = -(-layer.outputs // schedule.block) * -(-n // rows)
    return turns * (density * layer.inputs * each + BRANCH + rows * wide * MOVED)


def _lookup(layer: Layer, schedule: Schedule, n: int, lanes: int, density: float) -> float:
    """Steps are more than entries of an output by a share that was measured at random zeros."""
    density = max(density, RAREST)
    steps = layer.inputs * density * (1 + ((1 - density) / (SLID * density)) ** 0.8)
    rows, wide = min(schedule.registers, n), schedule.block // lanes
    turns = layer.groups * order(layer, schedule).blocks * -(-n // rows)
    return float(turns * (steps * (wide * max(LOOKUP, rows) + rows * LOOKED) + BRANCH + rows * wide * MOVED))


def _positions(layer: Layer, schedule: Schedule, n: int, lanes: int, density: float) -> float:
    made = Positions(layer, schedule, lanes)
    cut, panel = made.cut, made.panel
    strips = [schedule.strip] * (schedule.block // schedule.strip)
    far = _far(panel.read) + _apart(made)
    blocks = 0.0
    for count, times in _counts(made, n).items():
        blocks += times * sum(_strip(made, size, count, density, far) for size in strips)
    if panel.direct:
        tiles = n * panel.tiles * layer.groups
        filled = panel.size * (cut.stretches if cut.streamed else 1)
        beside = (FILLED * filled / lanes + RUN * (layer.channels + layer.outputs)) * tiles
    else:
        beside = TURNED * (layer.inputs + layer.outputs) * -(-n // lanes)
    return float(cut.blocks * cut.stretches * blocks + beside)


def _apart(made: Positions) -> float:
    """What a load costs more than from a panel whose lines begin where vectors do."""
    if made.schedule.layout == "inplace":
        return APART
    if made.schedule.layout == "masked":
        return CROSSING
    tight = made.schedule.layout == "tight"
    return CROSSING * (1 - gcd(made.panel.pitch, made.lanes) / made.lanes) if tight else 0.0


def _counts(made: Positions, n: int) -> Counter[int]:
    """Number of vectors -> how many chunks of `n` rows or images have so many."""
    panel, registers = made.panel, made.schedule.registers
    found: Counter[int] = Counter()
    if panel.direct:
        for _, count in made.parts():
            found[count] += n * panel.tiles * made.layer.groups
        return found
    for rows, tiles in ((panel.tile, n // panel.tile), (n % panel.tile, 1)):
        left = -(-rows // made.lanes)
        for count in chunk_sizes(registers):
            found[count] += tiles * (left // count)
            left %= count
    return found


def _strip(made: Positions, size: int, count: int, density: float, far: float) -> float:
    """The entries of one segment for `size` outputs and `count` vectors."""
    schedule, lanes = made.schedule, made.lanes
    density = max(density, RAREST)
    if schedule.mixed:
        read, values, ends = 1 - (1 - density) ** size, density * size, float(made.cut.masks * MASK)
    else:
        read, values, ends = density, density * size, BRANCH / 2 + (made.cut.masks - 1) * MASK
    chains = max(CHAINS, size * count)
    each = _entry(values / read * count, count * (1 + far) + values / read, chains, lanes)
    waits = float(size * count * MOVED)
    if made.cut.stretches > 1 or not made.panel.direct:
        waits *= 2 + _far(made.cut.span * schedule.block * made.line)
    return read * made.cut.depth * each + ends + waits
