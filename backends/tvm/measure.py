"""How long a kernel takes on this machine: thread CPU time, so that a busy machine does little harm."""

from __future__ import annotations

import ctypes
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from pruneopt.backends.tvm.compiler import Plan, compiled
from pruneopt.backends.tvm.packing import Floats, pack
from pruneopt.backends.tvm.target import Target

CACHE_LINE = 16  # floats


@dataclass(frozen=True)
class Work:
    """What a kernel is measured on: a weight [groups, outputs, inputs] and `n` rows or images."""

    weight: Floats
    n: int
    threads: int = 1


class Trial:
    """One plan, compiled and ready to run on random inputs."""

    def __init__(self, plan: Plan, target: Target, work: Work) -> None:
        self.run = compiled([plan], target)[plan.name]
        self.shares = shares(plan, work.n, work.threads)
        self.arrays = arguments(plan, work, np.random.default_rng(0))
        self.pointers = [ctypes.c_void_p(array.ctypes.data) for array in self.arrays]
        self.n = work.n

    def seconds(self) -> float:
        """Time of the thread that has most to do, if `threads` of them share the work."""
        return max(self._share(*share) for share in self.shares)

    def _share(self, parts: int, first: int, last: int) -> float:
        start = time.thread_time()
        self.run(*self.pointers, self.n, parts, first, last)
        return time.thread_time() - start


def shares(plan: Plan, n: int, threads: int) -> list[tuple[int, int, int]]:
    """(parts, first, last) of the calls by which `threads` threads share the work."""
    tiles = plan.units(n)
    parts = cut(tiles, plan.spans, threads)
    units = tiles * parts
    tasks = min(units, threads)
    return [(parts, units * i // tasks, units * (i + 1) // tasks) for i in range(tasks)]


def cut(tiles: int, most: int, threads: int) -> int:
    """Into how many parts the outputs of tiles are cut, so that no thread waits for long; as `cut` in shim.c."""
    for parts in range(1, min(most, 2 * threads) + 1):
        if -(-tiles * parts // threads) * threads * 5 <= tiles * parts * 6:
            return parts
    return max(1, min(most, 2 * threads))


def arguments(plan: Plan, work: Work, rng: np.random.Generator) -> list[Any]:
    """Flat arrays for a kernel's tensors: random x, the packed weight, y and scratch."""
    layer, image = plan.layer, plan.layer.image
    packed = pack(work.weight, None, layer, plan.schedule, plan.places())
    channels = layer.groups * (layer.channels if image else layer.inputs)
    x = rng.standard_normal(work.n * channels * (int(np.prod(image.size)) if image else 1), np.float32)
    y = np.zeros(
        work.n * layer.groups * layer.outputs * (int(np.prod(image.out)) if image else 1), np.float32
    )
    scratch = _on_cache_line(plan.scratch)
    return [x, packed.values.ravel(), packed.offsets, packed.starts, packed.bias, y, scratch]


def _on_cache_line(size: int) -> Floats:
    """Zeros that begin where a cache line does, as the library's working memory: vectors cross no line then."""
    room = np.zeros(size + CACHE_LINE, np.float32)
    start = -room.ctypes.data // room.itemsize % CACHE_LINE
    return room[start : start + size]
