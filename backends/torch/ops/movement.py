"""Ops that move entries without computing: shapes, permutations, joins, cuts, padding."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pruneopt.backends.torch.table import op
from pruneopt.backends.torch.values import Setting, ints, number, together


@op("Shape")
def shape(x: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    """The sizes of x, on the CPU."""
    return torch.tensor(list(x.shape)[start:end], dtype=torch.int64)


@op("Size")
def size(x: Tensor) -> Tensor:
    """The number of entries of x, on the CPU."""
    return torch.tensor(x.numel(), dtype=torch.int64)


@op("Reshape", settings=(1,))
def reshape(x: Tensor, shape: Setting, *, allowzero: int = 0) -> Tensor:
    """x in another shape; 0 copies a size unless `allowzero`, -1 is what remains."""
    sizes = ints(shape)
    if not allowzero:
        sizes = [x.shape[i] if s == 0 else s for i, s in enumerate(sizes)]
    return x.reshape(sizes)


@op("Flatten")
def flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    """Two dimensions: those before `axis`, and the rest."""
    rows = 1
    for each in x.shape[: axis if axis >= 0 else axis + x.dim()]:
        rows *= each
    return x.reshape(rows, x.numel() // rows if rows else 0)


@op("Transpose")
def transpose(x: Tensor, *, perm: list[int] | None = None) -> Tensor:
    """Dimensions in another order, reversed by default."""
    return x.permute(perm if perm is not None else list(range(x.dim()))[::-1])


@op("Squeeze", settings=(1,))
def squeeze(x: Tensor, axes: Setting = None) -> Tensor:
    """Without these dimensions of size 1, or without all of them."""
    return x.squeeze() if axes is None else x.squeeze(tuple(ints(axes)))


@op("Unsqueeze", settings=(1,))
def unsqueeze(x: Tensor, axes: Setting) -> Tensor:
    """With dimensions of size 1 where the result shall have them."""
    places = ints(axes)
    rank = x.dim() + len(places)
    for place in sorted(p % rank for p in places):
        x = x.unsqueeze(place)
    return x


@op("Concat")
def concat(*terms: Tensor, axis: int) -> Tensor:
    """One after another along an axis."""
    return torch.cat(together(*terms), axis)


@op("Split", settings=(1,), several=True)
def split(
    x: Tensor, split: Setting = None, *, axis: int = 0, num_outputs: int | None = None, outputs: int = 1
) -> tuple[Tensor, ...]:
    """Pieces along an axis: of given sizes, or equal ones whose last may be smaller."""
    if split is not None:
        sizes = ints(split)
    else:
        count, length = num_outputs or outputs, x.shape[axis]
        each = -(-length // count)
        sizes = [min(each, max(length - i * each, 0)) for i in range(count)]
    pieces: tuple[Tensor, ...] = torch.split(x, sizes, axis)
    return pieces


@op("Slice", settings=(1, 2, 3, 4))
def cut(x: Tensor, starts: Setting, ends: Setting, axes: Setting = None, steps: Setting = None) -> Tensor:
    """Ranges along axes; bounds beyond the ends are cut, steps may be negative."""
    firsts, lasts = ints(starts), ints(ends)
    places = list(range(len(firsts))) if axes is None else ints(axes)
    strides = [1] * len(firsts) if steps is None else ints(steps)
    for place, first, last, step in zip(places, firsts, lasts, strides, strict=True):
        begin, end = _bounds(first, last, step, x.shape[place])
        if step > 0:
            x = x[(slice(None),) * (place % x.dim()) + (slice(begin, max(begin, end), step),)]
        else:
            x = x.index_select(place, torch.arange(begin, min(begin, end), step, device=x.device))
    return x


def _bounds(first: int, last: int, step: int, size: int) -> tuple[int, int]:
    """Bounds counted from the front and within the dimension; backwards, -1 is the end."""
    first, last = (n + size if n < 0 else n for n in (first, last))
    if step > 0:
        return min(max(first, 0), size), min(max(last, 0), size)
    return min(max(first, 0), size - 1), min(max(last, -1), size - 1)


@op("Expand", settings=(1,))
def expand(x: Tensor, shape: Setting) -> Tensor:
    """Broadcast against a shape, in both directions."""
    return x.expand(np.broadcast_shapes(tuple(x.shape), tuple(ints(shape))))


@op("Tile", settings=(1,))
def tile(x: Tensor, repeats: Setting) -> Tensor:
    """Repeated along every dimension."""
    return x.repeat(ints(repeats))


@op("Pad", settings=(1, 2, 3))
def pad(
    x: Tensor, pads: Setting, value: Setting = None, axes: Setting = None, *, mode: str = "constant"
) -> Tensor:
    """Entries added, or cut where negative, at the beginning and end of axes."""
    amounts = ints(pads)
    half = len(amounts) // 2
    places = list(range(x.dim())) if axes is None else [a % x.dim() for a in ints(axes)]
    both = {place: (amounts[i], amounts[half + i]) for i, place in enumerate(places)}
    if mode == "constant":
        flat = [n for dim in range(x.dim())[::-1] for n in both.get(dim, (0, 0))]
        return F.pad(x, flat, value=0 if value is None else number(value))
    for place, (before, after) in both.items():
        if before or after:
            x = x.index_select(place, _mirrored(x.shape[place], before, after, mode).to(x.device))
    return x


def _mirrored(size: int, before: int, after: int, mode: str) -> Tensor:
    """Which entry each place of a padded dimension shows."""
    places = torch.arange(-before, size + after)
    if mode == "edge" or size == 1:
        return places.clamp(0, size - 1)
    if mode == "wrap":
        return places % size
    turn = 2 * (size - 1)  # reflect: there and back again
    places = places % turn
    return torch.where(places < size, places, turn - places)


@op("DepthToSpace")
def depth_to_space(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    """`b (r q c) h w -> b c (h r) (w q)`, or with c outermost (CRD)."""
    b, c, h, w = x.shape
    n = blocksize
    if mode == "DCR":
        return x.reshape(b, n, n, c // n**2, h, w).permute(0, 3, 4, 1, 5, 2).reshape(b, -1, h * n, w * n)
    return x.reshape(b, c // n**2, n, n, h, w).permute(0, 1, 4, 2, 5, 3).reshape(b, -1, h * n, w * n)


@op("SpaceToDepth")
def space_to_depth(x: Tensor, *, blocksize: int) -> Tensor:
    """`b c (h r) (w q) -> b (r q c) h w`."""
    b, c, h, w = x.shape
    n = blocksize
    return x.reshape(b, c, h // n, n, w // n, n).permute(0, 3, 5, 1, 2, 4).reshape(b, -1, h // n, w // n)


@op("Trilu", settings=(1,))
@op("Trilu", domain="com.microsoft", settings=(1,))
def trilu(x: Tensor, k: Setting = 0, *, upper: int = 1) -> Tensor:
    """The upper or lower triangle of the last two dimensions, from diagonal k."""
    diagonal = 0 if k is None else int(number(k))
    return torch.triu(x, diagonal) if upper else torch.tril(x, diagonal)


@op("ReverseSequence")
def reverse_sequence(x: Tensor, lengths: Tensor, *, batch_axis: int = 1, time_axis: int = 0) -> Tensor:
    """The first entries of every sequence backwards, as many as its length."""
    moved = x.movedim((batch_axis, time_axis), (0, 1))
    time = torch.arange(moved.shape[1], device=x.device)[None]
    ends = lengths.to(x.device)[:, None]
    order = torch.where(time < ends, ends - 1 - time, time)
    rows = torch.arange(moved.shape[0], device=x.device)[:, None]
    return moved[rows, order].movedim((0, 1), (batch_axis, time_axis))


@op("CenterCropPad", settings=(1,))
def center_crop_pad(x: Tensor, shape: Setting, *, axes: list[int] | None = None) -> Tensor:
    """Cut or padded with zeros around the centre to given sizes."""
    places: Any = range(x.dim()) if axes is None else axes
    for place, length in zip(places, ints(shape), strict=True):
        extra = length - x.shape[place]
        if extra < 0:
            x = x.narrow(place, -extra // 2, length)
        else:
            around = [0, 0] * (x.dim() - 1 - place % x.dim()) + [extra // 2, extra - extra // 2]
            x = F.pad(x, around)
    return x
