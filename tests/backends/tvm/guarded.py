"""Kernels on random shapes and patterns against NumPy, between canaries, at unaligned addresses and at ends of memory.

    python -m tests.backends.tvm.guarded --examples 10000 --seed 7

checks as many runs; every compiled kernel serves a few of them, with fresh weights, zeros, data and numbers of rows.
"""

from __future__ import annotations

import argparse
import ctypes
import mmap
import random
from collections.abc import Iterator
from typing import Any

import numpy as np

from pruneopt.backends.tvm.compiler import Plan, compiled
from pruneopt.backends.tvm.functions import gelu
from pruneopt.backends.tvm.layer import Image, Layer, Schedule
from pruneopt.backends.tvm.measure import shares
from pruneopt.backends.tvm.packing import WINDOW, Floats, pack
from pruneopt.backends.tvm.target import Target
from pruneopt.backends.tvm.templates.image import layouts

CANARY = 64  # entries on each side of a buffer
RUNS = 10  # of each kernel
TOLERANCE = 1e-4
Array = np.ndarray[Any, Any]


class Guarded:
    """A flat buffer with canaries on both sides; `shift` bytes off the alignment that NumPy gives."""

    def __init__(self, array: Array, shift: int) -> None:
        edge = CANARY * array.itemsize
        self.memory = np.full(array.nbytes + 2 * edge + 64, 0xA5, np.uint8)
        start = (-self.memory.ctypes.data) % 64 + edge + shift
        self.view = self.memory[start : start + array.nbytes].view(array.dtype)
        self.view[:] = array.ravel()
        self.before = self.memory[:start].copy()
        self.after = self.memory[start + array.nbytes :].copy()
        self.start, self.stop = start, start + array.nbytes

    def pointer(self) -> Any:
        return ctypes.c_void_p(self.view.ctypes.data)

    def intact(self) -> bool:
        """Whether nothing was written beside the buffer."""
        return np.array_equal(self.memory[: self.start], self.before) and np.array_equal(
            self.memory[self.stop :], self.after
        )


class Ending:
    """A flat buffer that ends where memory begins that may not be touched: reading beyond it ends the process."""

    def __init__(self, array: Array) -> None:
        room = -(-max(array.nbytes, 1) // mmap.PAGESIZE) * mmap.PAGESIZE
        self.memory = mmap.mmap(-1, room + mmap.PAGESIZE)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        if ctypes.CDLL(None).mprotect(ctypes.c_void_p(start + room), mmap.PAGESIZE, 0):
            raise OSError("memory cannot be protected")
        self.view = np.frombuffer(self.memory, np.uint8, array.nbytes, room - array.nbytes).view(array.dtype)
        self.view[:] = array.ravel()

    def pointer(self) -> Any:
        return ctypes.c_void_p(self.view.ctypes.data)

    def intact(self) -> bool:
        return True


def random_layer(rng: random.Random) -> Layer:
    """Rows, or images with any geometry that makes an output."""
    acts = [("Relu", ()), ("Clip", (0.0, 6.0)), ("LeakyRelu", (0.1,)), ("HardSwish", ()), ("Gelu", ())]
    act = rng.choice([("", ()), *acts])
    if rng.random() < 0.5:
        return Layer(rng.randint(1, 90), rng.randint(1, 90), act=act)
    kernel = rng.choice([(1, 1), (3, 3), (2, 3), (5, 1)])
    strides, dilations = rng.choice([(1, 1), (2, 2), (1, 2)]), rng.choice([(1, 1), (2, 1)])
    padding = rng.choice([(0, 0), (1, 1), (2, 0)]) if kernel != (1, 1) else (0, 0)
    size = rng.randint(5, 20), rng.randint(5, 20)
    if kernel == (1, 1) and rng.random() < 0.5:
        strides, size = (1, 1), (4 * rng.randint(1, 4), 4 * rng.randint(1, 4))
    elif kernel != (1, 1) and rng.random() < 0.5:
        strides, padding = (1, 1), (kernel[0] // 2 * dilations[0], kernel[1] // 2 * dilations[1])
    reach = [(kernel[i] - 1) * dilations[i] + 1 for i in (0, 1)]
    out = [max(1, (size[i] + 2 * padding[i] - reach[i]) // strides[i] + 1) for i in (0, 1)]
    size = max(size[0], reach[0]), max(size[1], reach[1])
    image = Image(size, (out[0], out[1]), kernel, strides, padding, dilations)
    if rng.random() < 0.2:
        return Layer(kernel[0] * kernel[1], rng.choice([1, 1, 2]), rng.randint(1, 40), image, act)
    channels = rng.randint(1, 12)
    return Layer(channels * kernel[0] * kernel[1], rng.randint(1, 40), rng.choice([1, 1, 2, 3]), image, act)


def random_schedule(rng: random.Random, layer: Layer, lanes: int) -> Schedule:
    """Knobs beyond those that the tuner would try."""
    if layer.image is None and lanes == 16 and layer.inputs >= WINDOW and rng.random() < 0.4:
        rows = rng.choice([1, 2, 3, 4, 6])
        return Schedule("lookup", lanes * rng.choice([1, 2, 4]), rows * rng.choice([1, 2]), rows)
    block = rng.choice([1, 1, 2, 4, 8, 16, 32])
    if layer.image is None and block > 1 and rng.random() < 0.5:
        rows = rng.choice([1, 3, 4, 6, 8])
        return Schedule("outputs", block, rows * rng.choice([1, 2]), rows)
    tile = rng.choice([1, 2, 3, 16, 33, 64])
    if layer.depthwise and rng.random() < 0.9:
        return Schedule("depthwise", 1, tile, rng.choice([1, 2, 3, 4, 7, 8]))
    depth, span = rng.choice([0, 1, 5, 16]), rng.choice([0, 1, 3])
    registers, mixed = rng.choice([1, 2, 3]), 1 < block <= 4 and rng.random() < 0.7
    layout = rng.choice([*layouts(layer.image, lanes), "tight"] if layer.image else ["aligned"])
    if layout == "inplace":
        tile = -(-tile // lanes) * lanes
    mixed = mixed and layout != "masked"
    return Schedule("positions", block, tile, registers, depth, span, mixed, layout)


def random_weight(rng: np.random.Generator, layer: Layer, schedule: Schedule) -> Floats:
    """[groups, outputs, inputs]; blocks of outputs may share their zeros, some of which are zeros by accident."""
    block = 1 if schedule.mixed or schedule.sliced else schedule.block
    density = rng.choice([0.0, 0.05, 0.3, 0.9])
    blocks = -(-layer.outputs // block)
    kept = rng.random((layer.groups, blocks, layer.inputs)) < density
    mask = np.repeat(kept, block, 1)[:, : layer.outputs] & (rng.random((layer.outputs, layer.inputs)) < 0.98)
    return np.asarray(rng.standard_normal(mask.shape) * mask, np.float32)


def reference(x: Array, weight: Floats, bias: Floats, layer: Layer) -> Array:
    """What the kernel should make, in float64."""
    if layer.image is None:
        return _act(x.astype(np.float64) @ weight[0].T.astype(np.float64) + bias, layer)
    image, channels = layer.image, layer.channels
    pads = [(0, 0), (0, 0), *((p, p + 64) for p in image.padding)]
    padded = np.pad(x.astype(np.float64), pads)
    total = np.zeros((len(x), layer.groups * layer.outputs, *image.out))
    for g in range(layer.groups):
        taps = weight[g].reshape(layer.outputs, channels, *image.kernel)
        for i, j in np.ndindex(*image.kernel):
            rows = slice(i * image.dilations[0], None, image.strides[0])
            columns = slice(j * image.dilations[1], None, image.strides[1])
            seen = padded[:, g * channels : (g + 1) * channels, rows, columns][
                ..., : image.out[0], : image.out[1]
            ]
            own = slice(g * layer.outputs, (g + 1) * layer.outputs)
            total[:, own] += np.einsum("oc,bchw->bohw", taps[:, :, i, j], seen)
    return _act(total + bias[:, None, None], layer)


def _act(x: Array, layer: Layer) -> Array:
    name, parameters = layer.act
    if name == "Relu":
        return np.maximum(x, 0)
    if name == "Clip":
        return np.asarray(np.clip(x, parameters[0], parameters[1]))
    if name == "LeakyRelu":
        return np.where(x > 0, x, parameters[0] * x)
    if name == "Gelu":
        return np.asarray(gelu(x))
    return np.asarray(x * np.clip(x / 6 + 0.5, 0, 1)) if name == "HardSwish" else x


def check(run: Any, plan: Plan, rng: np.random.Generator) -> str | None:
    """One run of a kernel on fresh data; what is wrong with it, or None."""
    layer, image = plan.layer, plan.layer.image
    n, threads = int(rng.integers(1, 5 if image else 140)), int(rng.integers(1, 4))
    weight = random_weight(rng, layer, plan.schedule)
    bias = np.asarray(rng.standard_normal(layer.groups * layer.outputs), np.float32)
    packed = pack(weight, bias, layer, plan.schedule, plan.places())
    shape = (n, layer.groups * layer.channels, *image.size) if image else (n, layer.inputs)
    x = np.asarray(rng.standard_normal(shape), np.float32)
    wanted = reference(x, weight, bias, layer)
    y, scratch = np.full(wanted.shape, np.nan, np.float32), np.full(plan.scratch, np.nan, np.float32)
    arrays = [x, packed.values, packed.offsets, packed.starts, packed.bias, y, scratch]
    buffers: list[Guarded | Ending] = [
        Ending(array) if rng.random() < 0.3 else Guarded(array, int(rng.integers(0, 8)) * array.itemsize)
        for array in arrays
    ]
    for parts, first, last in shares(plan, n, threads):
        run(*(each.pointer() for each in buffers), n, parts, first, last)
    if not all(each.intact() for each in buffers):
        return "wrote beside a buffer"
    unread = [i for i in range(5) if not np.array_equal(buffers[i].view, arrays[i].ravel())]
    if unread:
        return f"changed argument {unread[0]}"
    found = buffers[5].view.reshape(wanted.shape)
    error = float(np.abs(found - wanted).max(initial=0) / max(1.0, float(np.abs(wanted).max(initial=0))))
    return None if error <= TOLERANCE else f"is wrong by {error:.1e} at n={n}, threads={threads}"


def failures(target: Target, examples: int, seed: int, runs: int = RUNS) -> Iterator[str]:
    """What is wrong, one line for each run that is."""
    for number in range(-(-examples // runs)):
        rng = random.Random(f"{seed}/{number}")
        layer = random_layer(rng)
        lanes = rng.choice([each for each in (4, 8, 16) if each <= target.lanes])
        plan = Plan(layer, random_schedule(rng, layer, lanes), lanes)
        run = compiled([plan], target)[plan.name]
        data = np.random.default_rng([seed, number])
        for _ in range(runs):
            if wrong := check(run, plan, data):
                yield f"{seed}-{number}: {plan} {wrong}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--runs", type=int, default=RUNS, help="of each kernel")
    options = parser.parse_args()
    from pruneopt.backends.tvm.target import parse

    wrong = 0
    for line in failures(parse("host"), options.examples, options.seed, options.runs):
        print(line, flush=True)
        wrong += 1
    print(f"{wrong} of {options.examples} runs went wrong")
    return bool(wrong)


if __name__ == "__main__":
    raise SystemExit(main())
