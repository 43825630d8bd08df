"""About how many cycles a schedule takes, so that the search begins with good ones. Plain arithmetic, no TVM.

Counted are multiply-adds, loads, the latency of sums, a mispredicted branch at the end of every run of entries,
and what is laid out before and turned after. Only the order of the estimates matters: the tuner measures.
"""

from __future__ import annotations

from pruneopt.backends.tvm.layer import Layer, Schedule
from pruneopt.backends.tvm.templates.outputs import CHAINS as PARTIAL
from pruneopt.backends.tvm.templates.positions import CHAINS, STRIP, Positions

CLOSE = 36 << 10  # bytes of panel that stay in the first cache beside everything else
FAR = 1.5  # loads that one from the second cache is worth
LATENCY = 4  # cycles until a sum can be added to again
BRANCH = 20  # cycles that a mispredicted branch costs
MOVED = 2  # cycles for each vector that is copied
TURNED = 7  # cycles for each vector that is transposed


def cycles(layer: Layer, schedule: Schedule, n: int, lanes: int, density: float) -> float:
    """Of `n` rows or images on one core; `density` is the share of inputs that a block of outputs reads."""
    if schedule.template == "outputs":
        return _outputs(layer, schedule, n, lanes, density)
    return _positions(layer, schedule, n, lanes, density)


def _entry(multiplied: float, loaded: float, chains: int) -> float:
    """One entry: two loads and two multiply-adds in a cycle, and sums that wait for the entry before."""
    return max(multiplied / 2, loaded / 2, LATENCY / chains)


def _far(floats: int) -> float:
    """What a load of one of so many costs more than from the first cache."""
    return max(0.0, 1 - CLOSE / (4 * floats)) * FAR


def _outputs(layer: Layer, schedule: Schedule, n: int, lanes: int, density: float) -> float:
    wide = max(1, schedule.block // lanes)
    rows = min(schedule.registers, n)
    chains = max(schedule.unroll, PARTIAL // (rows * wide), 1)
    far = _far(2 * rows * layer.inputs)  # rows that lie far apart share few places of the first cache
    each = _entry(rows * wide, rows * (1 + far) + wide + 1, chains)
    turns = -(-layer.outputs // schedule.block) * -(-n // rows)
    return turns * (density * layer.inputs * each + BRANCH + rows * wide * MOVED)


def _positions(layer: Layer, schedule: Schedule, n: int, lanes: int, density: float) -> float:
    made = Positions(layer, schedule, lanes)
    cut, panel = made.cut, made.panel
    tiles = n * panel.tiles * layer.groups if layer.image else -(-n // panel.tile)
    far = _far(panel.stretch)
    strips = [min(STRIP, schedule.block - at) for at in range(0, schedule.block, STRIP)]
    block = 0.0
    for _, count in made.chunks():
        for size in strips:
            chains = schedule.unroll if size * count * schedule.unroll <= CHAINS else 1
            each = _entry(size * count, count * (1 + far) + size + 1, chains)
            waits = size * count * MOVED * (1 if cut.stretches == 1 and panel.direct else 2)
            block += density * cut.depth * each + BRANCH + waits
    turned = 0 if panel.direct else TURNED * (layer.inputs + layer.outputs) * panel.width
    laid = MOVED * panel.size / lanes if panel.direct else 0
    return float(tiles * (cut.blocks * cut.stretches * block + turned + laid))
