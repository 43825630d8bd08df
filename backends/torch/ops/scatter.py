"""Ops that write entries by position."""

from __future__ import annotations

import torch
from torch import Tensor

from pruneopt.backends.torch.ops.indexing import positive
from pruneopt.backends.torch.table import op
from pruneopt.backends.torch.values import Setting, number, together

_REDUCE = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _write(x: Tensor, dim: int, index: Tensor, updates: Tensor, reduction: str) -> Tensor:
    updates = updates.to(x.dtype)
    if reduction == "none":
        return x.scatter(dim, index, updates)
    return x.scatter_reduce(dim, index, updates, _REDUCE[reduction])


@op("ScatterElements", "Scatter")
def scatter_elements(
    x: Tensor, indices: Tensor, updates: Tensor, *, axis: int = 0, reduction: str = "none"
) -> Tensor:
    """x with one update per index, written along an axis."""
    x, indices, updates = together(x, indices, updates)
    return _write(x, axis, positive(indices, x.shape[axis]), updates, reduction)


@op("ScatterND")
def scatter_nd(x: Tensor, indices: Tensor, updates: Tensor, *, reduction: str = "none") -> Tensor:
    """x with slices written at the positions that the last dimension of the indices holds."""
    x, indices, updates = together(x, indices, updates)
    depth = indices.shape[-1]
    place = torch.zeros(indices.shape[:-1], dtype=torch.int64, device=x.device)
    for i in range(depth):
        place = place * x.shape[i] + positive(indices[..., i], x.shape[i])
    count = 1
    for size in x.shape[:depth]:
        count *= size
    width = x[(0,) * depth].numel() if x.numel() else 0
    flat, new = x.reshape(count, width), updates.reshape(place.numel(), width)
    return _write(flat, 0, place.reshape(-1, 1).expand(-1, width), new, reduction).reshape(x.shape)


@op("TensorScatter")
def tensor_scatter(
    past: Tensor, update: Tensor, start: Tensor | None = None, *, axis: int = -2, mode: str = "linear"
) -> Tensor:
    """A cache with new entries written along an axis from each batch's start on, around its end if circular."""
    past, update, start = together(past, update, start)
    axis %= past.dim()
    batch, steps = past.shape[0], update.shape[axis]
    first = torch.zeros(batch, dtype=torch.int64, device=past.device) if start is None else start.long()
    place = first[:, None] + torch.arange(steps, device=past.device)
    place = place % past.shape[axis] if mode == "circular" else place
    shape = [1] * past.dim()
    shape[0], shape[axis] = batch, steps
    return past.scatter(axis, place.reshape(shape).expand_as(update), update)


@op("CumSum", settings=(1,))
def cum_sum(x: Tensor, axis: Setting, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    """Running sums along an axis, from its end if reverse, without the entry itself if exclusive."""
    dim = int(number(axis))
    x = x.flip(dim) if reverse else x
    result = torch.cumsum(x, dim, dtype=x.dtype)
    result = result - x if exclusive else result
    return result.flip(dim) if reverse else result


@op("CumProd", settings=(1,))
def cum_prod(x: Tensor, axis: Setting, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    """Running products along an axis, from its end if reverse, without the entry itself if exclusive."""
    dim = int(number(axis))
    x = x.flip(dim) if reverse else x
    if exclusive:
        ones = torch.ones_like(x.narrow(dim, 0, 1))
        x = torch.cat([ones, x.narrow(dim, 0, x.shape[dim] - 1)], dim)
    result = torch.cumprod(x, dim, dtype=x.dtype)
    return result.flip(dim) if reverse else result
