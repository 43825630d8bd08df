"""Ops that look entries up by position, or make positions. Indices may be negative."""

from __future__ import annotations

from math import ceil

import torch
from torch import Tensor

from pruneopt.backends.torch.table import op
from pruneopt.backends.torch.values import Setting, dtype_of, ints, number, together


def positive(index: Tensor, size: int) -> Tensor:
    """Positions counted from the front."""
    index = index.long()
    return torch.where(index < 0, index + size, index)


@op("Gather", settings=(1,))
def gather(x: Tensor, indices: Setting, *, axis: int = 0) -> Tensor:
    """`x[:axis] + indices + x[axis+1:]`."""
    if isinstance(indices, int):
        return x.select(axis, indices)
    index = indices if isinstance(indices, Tensor) else torch.tensor(indices, dtype=torch.int64)
    x, index = together(x, index)
    axis %= x.dim()
    flat = x.index_select(axis, positive(index, x.shape[axis]).reshape(-1))
    return flat.reshape(x.shape[:axis] + index.shape + x.shape[axis + 1 :])


@op("GatherElements")
def gather_elements(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    """One entry per index, looked up along an axis."""
    x, indices = together(x, indices)
    return torch.gather(x, axis, positive(indices, x.shape[axis]))


@op("GatherND")
def gather_nd(x: Tensor, indices: Tensor, *, batch_dims: int = 0) -> Tensor:
    """`batch + indices[:-1] + x[batch + depth:]`."""
    x, indices = together(x, indices)
    depth = indices.shape[-1]
    batch = list(x.shape[:batch_dims])
    place = [positive(indices[..., i], x.shape[batch_dims + i]) for i in range(depth)]
    for i, size in enumerate(batch):
        shape = [1] * (indices.dim() - 1)
        shape[i] = size
        place.insert(i, torch.arange(size, device=x.device).reshape(shape))
    return x[tuple(place)] if place else x.expand(indices.shape[:-1] + x.shape)


@op("Compress")
def compress(x: Tensor, condition: Tensor, *, axis: int | None = None) -> Tensor:
    """The entries where the condition, which may be short, holds."""
    x, condition = together(x, condition)
    kept = torch.nonzero(condition.reshape(-1)).reshape(-1)
    return x.reshape(-1)[kept] if axis is None else x.index_select(axis, kept)


@op("NonZero")
def non_zero(x: Tensor) -> Tensor:
    """`rank count`: where x is not zero."""
    return torch.nonzero(x).t()


@op("OneHot", settings=(1,))
def one_hot(indices: Tensor, depth: Setting, values: Tensor, *, axis: int = -1) -> Tensor:
    """`values[1]` at each index along a new axis, else `values[0]`; nothing for indices out of range."""
    indices, values = together(indices, values)
    count = int(number(depth))
    places = torch.arange(count, device=indices.device)
    index = torch.where(indices < 0, indices + count, indices)
    rank = indices.dim() + 1
    hot = index.unsqueeze(axis) == places.reshape([-1 if d == axis % rank else 1 for d in range(rank)])
    return torch.where(hot, values[1], values[0])


@op("EyeLike")
def eye_like(x: Tensor, *, dtype: int | None = None, k: int = 0) -> Tensor:
    """Ones on diagonal k of a matrix of the size of x."""
    kind = x.dtype if dtype is None else dtype_of(dtype)
    rows = torch.arange(x.shape[0], device=x.device)[:, None]
    columns = torch.arange(x.shape[1], device=x.device)[None]
    return (columns - rows == k).to(kind)


@op("Range", settings=(0, 1, 2))
def arange(start: Setting, limit: Setting, delta: Setting) -> Tensor:
    """From start to before limit in steps of delta, in the type of the first that is a tensor."""
    first, last, step = number(start), number(limit), number(delta)
    kinds = [t.dtype for t in (start, limit, delta) if isinstance(t, Tensor)]
    whole = all(isinstance(n, int) for n in (first, last, step))
    kind = kinds[0] if kinds else torch.int64 if whole else torch.float32
    count = max(0, -((first - last) // step) if whole else ceil((last - first) / step))
    result: Tensor = torch.arange(count, dtype=kind) * step + first
    return result


@op("ConstantOfShape", settings=(0,))
def constant_of_shape(shape: Setting, *, value: Tensor | None = None) -> Tensor:
    """One value everywhere, 0.0 by default."""
    filling = torch.zeros(1) if value is None else value
    return filling.reshape(()).expand(ints(shape)).clone()


@op("TopK", settings=(1,), several=True)
def top_k(
    x: Tensor, k: Setting, *, axis: int = -1, largest: int = 1, sorted: int = 1
) -> tuple[Tensor, Tensor]:
    """The k largest or smallest entries along an axis, earlier ones first where equal, and where they are."""
    values, places = torch.sort(x, dim=axis, descending=bool(largest), stable=True)
    count = int(number(k))
    return values.narrow(axis, 0, count), places.narrow(axis, 0, count)


@op("ArgMax")
def arg_max(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    """Where the largest entry is, the first or the last one."""
    if select_last_index:
        return x.shape[axis] - 1 - x.flip(axis).argmax(axis, keepdim=bool(keepdims))
    return x.argmax(axis, keepdim=bool(keepdims))


@op("ArgMin")
def arg_min(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    """Where the smallest entry is, the first or the last one."""
    if select_last_index:
        return x.shape[axis] - 1 - x.flip(axis).argmin(axis, keepdim=bool(keepdims))
    return x.argmin(axis, keepdim=bool(keepdims))


@op("Unique", several=True)
def unique(x: Tensor, *, axis: int | None = None, sorted: int = 1) -> tuple[Tensor, ...]:
    """Entries that differ, where each is first, which one every entry is, and how often each is there."""
    flat = x.reshape(-1) if axis is None else x
    dim = 0 if axis is None else axis
    found, inverse, counts = torch.unique(flat, return_inverse=True, return_counts=True, dim=dim)
    count, places = found.shape[dim], torch.arange(inverse.numel(), device=x.device)
    first = places.new_full((count,), inverse.numel()).scatter_reduce(0, inverse, places, "amin")
    if not sorted:
        order = first.argsort()
        rank = order.argsort()
        found, first, counts = found.index_select(dim, order), first[order], counts[order]
        inverse = rank[inverse]
    return found, first, inverse, counts


@op("Constant")
def constant(
    *,
    value: Tensor | None = None,
    value_float: float | None = None,
    value_floats: list[float] | None = None,
    value_int: int | None = None,
    value_ints: list[int] | None = None,
) -> Tensor:
    """What the attribute says."""
    if value is not None:
        return value
    whole = value_int if value_int is not None else value_ints
    if whole is not None:
        return torch.tensor(whole, dtype=torch.int64)
    return torch.tensor(value_float if value_float is not None else value_floats, dtype=torch.float32)
