"""Reductions over axes, which are an attribute or, in later opsets, an input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pruneopt.backends.torch.table import op
from pruneopt.backends.torch.values import Setting, ints

Reduce = Callable[[Tensor, list[int], bool], Tensor]


def _reduce(x: Tensor, axes: Setting, keep: int, noop: int, function: Reduce, alone: Any = None) -> Tensor:
    """`alone` is what the op does to each entry where no axis is reduced."""
    dims = [] if axes is None else [a % x.dim() for a in ints(axes)]
    if not dims and noop:
        return x if alone is None else alone(x)
    return function(x, dims or list(range(x.dim())), bool(keep)).to(x.dtype)


def _sum(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    return x.sum(dims, keepdim=keep) if dims else x.clone()


def _mean(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    wide = x if x.is_floating_point() else x.double()
    return wide.mean(dims, keepdim=keep) if dims else x.clone()


def _largest(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    if x.numel() == 0:
        least: Any = (
            -torch.inf
            if x.is_floating_point()
            else False
            if x.dtype == torch.bool
            else torch.iinfo(x.dtype).min
        )
        return _sum(x, dims, keep).to(x.dtype).fill_(least)
    return x.amax(dims, keepdim=keep)


def _smallest(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    if x.numel() == 0:
        most: Any = (
            torch.inf
            if x.is_floating_point()
            else True
            if x.dtype == torch.bool
            else torch.iinfo(x.dtype).max
        )
        return _sum(x, dims, keep).to(x.dtype).fill_(most)
    return x.amin(dims, keepdim=keep)


def _product(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    for dim in sorted(dims, reverse=True):
        x = x.prod(dim, keepdim=keep)
    return x


def _log_sum_exp(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    return torch.logsumexp(x if x.is_floating_point() else x.double(), dims, keepdim=keep)


@op("ReduceSum", settings=(1,))
def reduce_sum(
    x: Tensor, axes: Setting = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """The sum."""
    return _reduce(x, axes, keepdims, noop_with_empty_axes, _sum)


@op("ReduceMean", settings=(1,))
def reduce_mean(
    x: Tensor, axes: Setting = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """The mean."""
    return _reduce(x, axes, keepdims, noop_with_empty_axes, _mean)


@op("ReduceMax", settings=(1,))
def reduce_max(
    x: Tensor, axes: Setting = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """The largest entry; equal ones share the gradient."""
    return _reduce(x, axes, keepdims, noop_with_empty_axes, _largest)


@op("ReduceMin", settings=(1,))
def reduce_min(
    x: Tensor, axes: Setting = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """The smallest entry; equal ones share the gradient."""
    return _reduce(x, axes, keepdims, noop_with_empty_axes, _smallest)


@op("ReduceProd", settings=(1,))
def reduce_prod(
    x: Tensor, axes: Setting = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """The product."""
    return _reduce(x, axes, keepdims, noop_with_empty_axes, _product)


@op("ReduceL1", settings=(1,))
def reduce_l1(x: Tensor, axes: Setting = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    """The sum of magnitudes."""
    return _reduce(x.abs(), axes, keepdims, noop_with_empty_axes, _sum)


@op("ReduceL2", settings=(1,))
def reduce_l2(x: Tensor, axes: Setting = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    """The Euclidean norm; its gradient at zero is zero."""

    def norm(x: Tensor, dims: list[int], keep: bool) -> Tensor:
        result: Tensor = torch.linalg.vector_norm(
            x if x.is_floating_point() else x.double(), 2, dims, keepdim=keep
        )
        return result

    return _reduce(x, axes, keepdims, noop_with_empty_axes, norm, torch.abs)


@op("ReduceSumSquare", settings=(1,))
def reduce_sum_square(
    x: Tensor, axes: Setting = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """The sum of squares."""
    return _reduce(x * x, axes, keepdims, noop_with_empty_axes, _sum)


@op("ReduceLogSum", settings=(1,))
def reduce_log_sum(
    x: Tensor, axes: Setting = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """The logarithm of the sum."""
    kind = x.dtype
    wide = x if x.is_floating_point() else x.double()
    return torch.log(_reduce(wide, axes, keepdims, noop_with_empty_axes, _sum)).to(kind)


@op("ReduceLogSumExp", settings=(1,))
def reduce_log_sum_exp(
    x: Tensor, axes: Setting = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """The logarithm of the sum of exponentials."""
    return _reduce(x, axes, keepdims, noop_with_empty_axes, _log_sum_exp)
