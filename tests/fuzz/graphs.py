"""Whole graphs: a stem, a few blocks, one or two heads; and the Hypothesis strategy that draws them."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from hypothesis import strategies as st
from onnx import TensorProto

from tests.fuzz import images, tokens
from tests.fuzz.builder import Builder, Size, Tensor
from tests.fuzz.convolutions import channels, exact, linear2d, space
from tests.fuzz.pointwise import activation

Array = npt.NDArray[Any]
Feeds = dict[str, Array]
SIZES: tuple[dict[str, int], ...] = ({"N": 2, "T": 5}, {"N": 3, "T": 7}, {"N": 4, "T": 9})
WORDS = 11


@dataclass(frozen=True)
class Case:
    """A graph, and feeds at three sizes of its dynamic dimensions: two are observed, the third is new."""

    proto: onnx.ModelProto
    feeds: tuple[Feeds, Feeds, Feeds]


def build(random: Random) -> Case:
    """A valid graph drawn from `random`."""
    opset = random.choice([17, *range(9, 26)])
    ir = 3 if opset < 15 and random.randrange(4) == 3 else {9: 4, 10: 5}.get(opset, 8 if opset < 20 else 10)
    b = Builder(random, opset, ir)
    if b.chance(0.5):
        token_net(b)
    else:
        image_net(b)
    proto = b.model()
    return Case(proto, _feeds(b))


@st.composite
def cases(draw: st.DrawFn) -> tuple[Case, Random]:
    """A graph, and the source of the masks that belong to it."""
    random = draw(st.randoms(use_true_random=False))
    return build(random), random


# --- nets -------------------------------------------------------------------------------------------


def image_net(b: Builder) -> None:
    """`[N, C, *space]`, blocks, and a head; sometimes on to tokens."""
    rank = b.pick([2, 2, 1, 3])
    side = {1: [8, 6, 16], 2: [4, 8, 6], 3: [2, 4]}[rank]
    shape: list[Size] = ["N" if b.chance(0.85) else 2, b.pick([3, 4]), *[b.pick(side)] * rank]
    x = exact(b, b.input("x", shape), channels(b))
    for _ in range(1 + b.random.randrange(5)):
        x = images.any_block(b, x)
        _maybe_expose(b, x)
    if b.chance(0.25) and 1 < x.width(1) <= 24:
        flat = b.reshape(x, x.shape[0], x.width(1), int(np.prod(space(x))))
        y = b.transpose(flat, 0, 2, 1)
        for _ in range(1 + b.random.randrange(2)):
            y = tokens.any_block(b, y)
        token_head(b, y, None)
        return
    image_head(b, x)


def image_head(b: Builder, x: Tensor) -> None:
    """Pooled and classified, flattened and classified, a dense map, or the features themselves."""
    how = b.pick(["pool", "pool", "flatten", "map", "raw"])
    n, c = x.shape[0], x.width(1)
    if how == "pool":
        small = b.op("GlobalAveragePool", x, shape=[n, c, *[1] * len(space(x))])
        flat = b.op("Flatten", small, shape=[n, c], axis=1) if b.chance(0.5) else b.reshape(small, n, c)
        b.output(linear2d(b, flat, 5))
    elif how == "flatten":
        many = c * int(np.prod(space(x)))
        b.output(linear2d(b, b.op("Flatten", x, shape=[n, many], axis=1), 5))
    elif how == "map":
        b.output(exact(b, activation(b, x), 3))
    else:
        b.output(activation(b, x))


def token_net(b: Builder) -> None:
    """Words or vectors, blocks, and a head; sometimes the head is the embedding table."""
    length: Size = b.pick(["T", 6, 16])
    batch: Size = "N" if b.chance(0.85) else 2
    table = None
    if b.chance(0.5):
        ids = b.input("ids", [batch, length], TensorProto.INT64)
        width = b.pick([6, 8, 12])
        table = b.const(b.rng.standard_normal((WORDS, width)), "table")
        x = b.op("Gather", table, ids, shape=[batch, length, width], axis=0)
    else:
        x = tokens.linear(b, b.input("x", [batch, length, 5]), b.pick([6, 8, 12]))
    for _ in range(1 + b.random.randrange(5)):
        x = tokens.any_block(b, x)
        _maybe_expose(b, x)
    token_head(b, x, table)


def token_head(b: Builder, x: Tensor, table: Tensor | None) -> None:
    """The tied table, a classifier of each token or of their mean, or the features themselves."""
    if table is not None and table.shape[1] == x.shape[2] and b.chance(0.5):
        flipped = b.transpose(table, 1, 0)
        b.output(b.op("MatMul", x, flipped, shape=[*x.shape[:2], WORDS]))
        return
    how = b.pick(["each", "mean", "raw", "pooled"])
    if how == "each":
        b.output(tokens.linear(b, x, 5))
    elif how == "mean":
        b.output(linear2d(b, b.reduce(b.pick(["Mean", "Max"]), x, [1], keep=False), 5))
    elif how == "pooled" and isinstance(x.shape[1], int):
        flat = b.reshape(x, x.shape[0], x.shape[1] * x.width(2))
        b.output(linear2d(b, flat, 5))
    else:
        b.output(activation(b, x))


def _maybe_expose(b: Builder, x: Tensor) -> None:
    """Rarely, something in the middle is an output, too."""
    produced = {o for n in b.nodes for o in n.output}
    if x.name in produced and b.chance(0.04):
        b.output(x)


def _feeds(b: Builder) -> tuple[Feeds, Feeds, Feeds]:
    rng = np.random.default_rng(b.random.randrange(2**16))
    one, two, three = ({i.name: _draw(i, sizes, rng) for i in b.inputs} for sizes in SIZES)
    return one, two, three


def _draw(info: onnx.ValueInfoProto, sizes: dict[str, int], rng: np.random.Generator) -> Array:
    kind = info.type.tensor_type
    shape = [sizes[d.dim_param] if d.dim_param else d.dim_value for d in kind.shape.dim]
    if kind.elem_type == TensorProto.INT64:
        return rng.integers(0, WORDS, shape)
    return rng.standard_normal(shape).astype(np.float32)
