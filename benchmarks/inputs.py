"""Inputs for a model that ONNX Runtime has loaded, at two sizes, made without any of pruneopt's code."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnxruntime

Feeds = dict[str, np.ndarray[Any, Any]]
Lengths = tuple[int, int]  # of the dynamic dimensions: those between the first and the last, the last
Size = tuple[int, Lengths]  # of a batch: the first dimension where dynamic, and the others

KINDS: dict[str, type[Any]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}
LENGTHS: tuple[tuple[Lengths, Lengths], ...] = (
    ((24, 24), (40, 40)),
    ((64, 64), (96, 96)),
    ((256, 256), (512, 512)),
)
IMAGES: tuple[tuple[Lengths, Lengths], ...] = (
    ((224, 224), (320, 320)),
    ((256, 256), (512, 512)),
    ((48, 320), (48, 480)),  # a line of text, whose height must not change
    ((32, 320), (32, 480)),
    ((64, 64), (96, 96)),
)
FIXED: tuple[tuple[Lengths, Lengths], ...] = (((1, 1), (1, 1)),)


def sizes(session: onnxruntime.InferenceSession) -> Iterator[tuple[Size, Size]]:
    """Pairs of sizes to try, the most different first: other lengths and batch, other batch, none."""
    batch = any(not isinstance(each.shape[0], int) for each in session.get_inputs() if each.shape)
    lengths = _lengths(session)
    for first, second in lengths:
        yield (1, first), (3 if batch else 1, second)
    for first, _ in lengths:
        yield (1, first), (3, first)
    for first, _ in lengths:
        yield (1, first), (1, first)


def _lengths(session: onnxruntime.InferenceSession) -> tuple[tuple[Lengths, Lengths], ...]:
    dynamic = [each for each in session.get_inputs() if any(not isinstance(d, int) for d in each.shape[1:])]
    if any(len(each.shape) > 3 for each in dynamic):
        return IMAGES
    return LENGTHS if dynamic else FIXED


def feeds(session: onnxruntime.InferenceSession, size: Size, seed: int = 0) -> Feeds:
    """One batch: normal floats, small integers, masks of ones. Raises KeyError for an unknown type."""
    rng = np.random.default_rng(seed)
    return {each.name: _array(each, size, rng) for each in session.get_inputs()}


def _array(entry: Any, size: Size, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    batch, (inner, last) = size
    sizes = [batch, *[inner] * (len(entry.shape) - 2), last]
    shape = [d if isinstance(d, int) else n * _terms(d) for d, n in zip(entry.shape, sizes, strict=False)]
    kind = KINDS[entry.type]
    if "mask" in entry.name:
        return np.ones(shape, kind)
    if np.dtype(kind).kind == "f":
        return rng.standard_normal(shape).astype(kind)
    return rng.integers(0, 2 if kind is np.bool_ else 8, shape).astype(kind)


def _terms(name: str | None) -> int:
    """Of how many lengths a dimension is named as the sum (`past + new`)."""
    return len((name or "").split("+"))


def working_sizes(session: onnxruntime.InferenceSession) -> tuple[Size, Size]:
    """The first pair of sizes that the model runs at. Raises RuntimeError where there is none."""
    words = "no sizes to try"
    for pair in sizes(session):
        try:
            for size in pair:
                session.run(None, feeds(session, size))
            return pair
        except Exception as error:  # ONNX Runtime raises a dozen unrelated classes
            words = " ".join(str(error).split())[:200]
    raise RuntimeError(words)
