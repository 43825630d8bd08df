"""Pooling over windows, and over whole images."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pruneopt.backends.torch.ops.convolution import CONVOLVE
from pruneopt.backends.torch.table import op
from pruneopt.backends.torch.values import Setting, ints
from pruneopt.backends.torch.windows import Windows, windows

MAX: tuple[Any, ...] = (None, F.max_pool1d, F.max_pool2d, F.max_pool3d)


@op("MaxPool", several=True)
def max_pool(
    x: Tensor,
    *,
    kernel_shape: list[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: list[int] | None = None,
    pads: list[int] | None = None,
    storage_order: int = 0,
    strides: list[int] | None = None,
    outputs: int = 1,
) -> tuple[Tensor, ...]:
    """The largest entry of every window, and where in the whole tensor it is."""
    over = windows(x, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    wide = x if x.is_floating_point() else x.double()
    padded = over.pad(wide, -torch.inf)
    function = MAX[len(kernel_shape)]
    settings = {"stride": over.strides, "dilation": over.dilations}
    if outputs == 1:
        return (function(padded, kernel_shape, **settings).to(x.dtype),)
    largest, place = function(padded, kernel_shape, **settings, return_indices=True)
    return largest.to(x.dtype), _unpadded(place, x, list(padded.shape[2:]), over, storage_order)


def _unpadded(place: Tensor, x: Tensor, padded: list[int], over: Windows, storage_order: int) -> Tensor:
    """Positions in the padded image as positions in the whole tensor, column-major in the image if asked for."""
    parts = []
    for size, before in zip(padded[::-1], over.before[::-1], strict=True):
        parts.append(place % size - before)
        place = torch.div(place, size, rounding_mode="floor")
    sizes = list(x.shape[2:])[::-1]
    if storage_order:
        parts, sizes = parts[::-1], sizes[::-1]
    flat, step = torch.zeros_like(parts[0]), 1
    for part, size in zip(parts, sizes, strict=True):
        flat, step = flat + part * step, step * size
    image = torch.arange(x.shape[0] * x.shape[1], device=x.device).reshape(x.shape[:2])
    return flat + image.reshape(list(x.shape[:2]) + [1] * len(sizes)) * step


def _sums(x: Tensor, over: Windows) -> Tensor:
    """The sum of every window of a padded tensor."""
    rank = len(over.kernel)
    flat = x.reshape(-1, 1, *x.shape[2:])
    ones = torch.ones([1, 1, *over.kernel], dtype=x.dtype, device=x.device)
    summed: Tensor = CONVOLVE[rank](flat, ones, None, over.strides, 0, over.dilations)
    return summed.reshape(*x.shape[:2], *summed.shape[2:])


@op("AveragePool")
def average_pool(
    x: Tensor,
    *,
    kernel_shape: list[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """The mean of every window, over what lies in the image or also in its padding."""
    over = windows(x, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    image = torch.ones([1, 1, *x.shape[2:]], dtype=x.dtype, device=x.device)
    if count_include_pad:
        inside = over.pad(image, 1.0, over.after)
        rest = [r - a for r, a in zip(over.reach, over.after, strict=True)]
        counted = F.pad(inside, [n for r in rest[::-1] for n in (0, r)])
    else:
        counted = over.pad(image)
    return _sums(over.pad(x), over) / _sums(counted, over)


@op("LpPool")
def lp_pool(
    x: Tensor,
    *,
    kernel_shape: list[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: list[int] | None = None,
    p: int = 2,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """The p-norm of every window."""
    over = windows(x, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    return _sums(over.pad(x.abs() ** p), over) ** (1 / p)


def _spatial(x: Tensor) -> list[int]:
    return list(range(2, x.dim()))


@op("GlobalAveragePool")
def global_average_pool(x: Tensor) -> Tensor:
    """The mean of every channel."""
    return x.mean(_spatial(x), keepdim=True)


@op("GlobalMaxPool")
def global_max_pool(x: Tensor) -> Tensor:
    """The largest entry of every channel."""
    return x.amax(_spatial(x), keepdim=True)


@op("GlobalLpPool")
def global_lp_pool(x: Tensor, *, p: int = 2) -> Tensor:
    """The p-norm of every channel."""
    result: Tensor = torch.linalg.vector_norm(x, p, _spatial(x), keepdim=True)
    return result


@op("MaxUnpool", settings=(2,))
def max_unpool(
    x: Tensor,
    indices: Tensor,
    output_shape: Setting = None,
    *,
    kernel_shape: list[int],
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """Zeros but for the entries of x, at their places in the whole tensor."""
    rank = len(kernel_shape)
    strides, amounts = strides or [1] * rank, pads or [0] * (2 * rank)
    sizes = [
        (n - 1) * s - amounts[d] - amounts[rank + d] + k
        for d, (n, s, k) in enumerate(zip(x.shape[2:], strides, kernel_shape, strict=True))
    ]
    inferred = [*x.shape[:2], *sizes]
    shape = inferred if output_shape is None else ints(output_shape)
    count = 1
    for size in inferred:
        count *= size
    flat = torch.zeros(count, dtype=x.dtype, device=x.device).scatter(0, indices.reshape(-1), x.reshape(-1))
    whole = flat.reshape(inferred)
    grow = [n for d in range(len(shape))[::-1] for n in (0, shape[d] - inferred[d])]
    return F.pad(whole, grow) if any(grow) else whole
