"""Sampling of images at computed places."""

from __future__ import annotations

from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from pruneopt.backends.torch.table import op
from pruneopt.backends.torch.values import Setting, alike, ints, together

_MODES = {"linear": "bilinear", "cubic": "bicubic"}


@op("GridSample")
def grid_sample(
    x: Tensor, grid: Tensor, *, align_corners: int = 0, mode: str = "linear", padding_mode: str = "zeros"
) -> Tensor:
    """x read at the places of the grid, which run from -1 to 1."""
    x, grid = alike(x, grid)
    return F.grid_sample(x, grid, _MODES.get(mode, mode), padding_mode, bool(align_corners))


@op("AffineGrid", settings=(1,))
def affine_grid(theta: Tensor, size: Setting, *, align_corners: int = 0) -> Tensor:
    """The places that affine maps send the grid of an image to."""
    return F.affine_grid(theta, ints(size), bool(align_corners))


@op("Col2Im", settings=(1, 2))
def col2im(
    x: Tensor,
    image: Setting,
    block: Setting,
    *,
    dilations: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """The sum of overlapping blocks of an image: what unfolding it takes apart."""
    sizes, kernel = ints(image), ints(block)
    rank = len(kernel)
    steps, gaps, amounts = strides or [1] * rank, dilations or [1] * rank, pads or [0] * (2 * rank)
    whole = [n + amounts[d] + amounts[rank + d] for d, n in enumerate(sizes)]
    counts = [(n - (k - 1) * g - 1) // s + 1 for n, k, g, s in zip(whole, kernel, gaps, steps, strict=True)]
    place = torch.zeros([1] * (2 * rank), dtype=torch.int64, device=x.device)
    for d in range(rank):
        inner = torch.arange(kernel[d], device=x.device) * gaps[d]
        outer = torch.arange(counts[d], device=x.device) * steps[d]
        shape = [1] * (2 * rank)
        shape[d], shape[rank + d] = kernel[d], counts[d]
        place = place * whole[d] + (inner[:, None] + outer[None]).reshape(shape)
    batch, channels = x.shape[0], x.shape[1] // prod(kernel)
    flat = x.reshape(batch, channels, -1)
    count = 1
    for n in whole:
        count *= n
    zeros = torch.zeros(batch, channels, count, dtype=x.dtype, device=x.device)
    result = zeros.scatter_add(2, place.reshape(1, 1, -1).expand_as(flat), flat).reshape(
        batch, channels, *whole
    )
    for d in range(rank):
        result = result.narrow(2 + d, amounts[d], sizes[d])
    return result


@op("RoiAlign")
def roi_align(
    x: Tensor,
    rois: Tensor,
    batch: Tensor,
    *,
    coordinate_transformation_mode: str = "half_pixel",
    mode: str = "avg",
    output_height: int = 1,
    output_width: int = 1,
    sampling_ratio: int = 0,
    spatial_scale: float = 1.0,
) -> Tensor:
    """Means or maxima of bilinear samples in the bins of each region, `regions channels height width`."""
    x, rois, batch = together(x, rois, batch)
    shift = 0.5 if coordinate_transformation_mode == "half_pixel" else 0.0
    found = []
    for region, image in zip(rois * spatial_scale - shift, batch.tolist(), strict=True):
        left, top, right, bottom = region
        width, height = right - left, bottom - top
        if not shift:
            width, height = width.clamp(min=1.0), height.clamp(min=1.0)
        rows = _samples(top, height, output_height, sampling_ratio)
        columns = _samples(left, width, output_width, sampling_ratio)
        found.append(_pool(x[image], rows, columns, mode))
    shape = (0, x.shape[1], output_height, output_width)
    return torch.stack(found) if found else x.new_zeros(shape)


def _samples(start: Tensor, length: Tensor, bins: int, ratio: int) -> Tensor:
    """`bins samples` places."""
    count = ratio if ratio > 0 else max(1, int(torch.ceil(length / bins).item()))
    offsets = (torch.arange(count, device=start.device) + 0.5) / count
    places = torch.arange(bins, device=start.device)[:, None] + offsets
    return start + places * length / bins


def _pool(image: Tensor, rows: Tensor, columns: Tensor, mode: str) -> Tensor:
    """`channels bins bins` of one image."""
    (r0, r1, rw), (c0, c1, cw) = _bilinear(rows, image.shape[1]), _bilinear(columns, image.shape[2])
    terms = [
        image[:, a][:, :, b] * (u[:, None] * v[None])
        for a, u in ((r0, rw[0]), (r1, rw[1]))
        for b, v in ((c0, cw[0]), (c1, cw[1]))
    ]
    shape = (image.shape[0], *rows.shape, *columns.shape)
    if mode == "max":  # of the weighted corners, not of their sum
        return torch.stack(terms).amax(0).reshape(shape).amax((2, 4))
    return sum(terms[1:], terms[0]).reshape(shape).mean((2, 4))


def _bilinear(places: Tensor, size: int) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """The two neighbours of each place and their weights, zero more than one entry outside."""
    flat = places.reshape(-1)
    inside = ((flat >= -1) & (flat <= size)).to(flat.dtype)
    at = flat.clamp(0, size - 1)
    low = at.floor()
    high = (low + 1).clamp(max=size - 1)
    part = at - low
    return low.long(), high.long(), ((1 - part) * inside, part * inside)
