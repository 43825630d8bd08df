"""Random numbers, from PyTorch's generator: `torch.manual_seed` decides; a node's own seed is not followed."""

from __future__ import annotations

import torch
from torch import Tensor

from pruneopt.backends.torch.table import op
from pruneopt.backends.torch.values import dtype_of


@op("RandomNormal")
def normal(
    *, shape: list[int], dtype: int = 1, mean: float = 0.0, scale: float = 1.0, seed: float = 0.0
) -> Tensor:
    """Normally distributed numbers."""
    return torch.randn(shape, dtype=dtype_of(dtype)) * scale + mean


@op("RandomUniform")
def uniform(
    *, shape: list[int], dtype: int = 1, low: float = 0.0, high: float = 1.0, seed: float = 0.0
) -> Tensor:
    """Uniformly distributed numbers."""
    return torch.rand(shape, dtype=dtype_of(dtype)) * (high - low) + low


@op("RandomNormalLike")
def normal_like(
    x: Tensor, *, dtype: int | None = None, mean: float = 0.0, scale: float = 1.0, seed: float = 0.0
) -> Tensor:
    """Normally distributed numbers in the shape of x."""
    kind = x.dtype if dtype is None else dtype_of(dtype)
    return torch.randn(x.shape, dtype=kind, device=x.device) * scale + mean


@op("RandomUniformLike")
def uniform_like(
    x: Tensor, *, dtype: int | None = None, low: float = 0.0, high: float = 1.0, seed: float = 0.0
) -> Tensor:
    """Uniformly distributed numbers in the shape of x."""
    kind = x.dtype if dtype is None else dtype_of(dtype)
    return torch.rand(x.shape, dtype=kind, device=x.device) * (high - low) + low


@op("Bernoulli")
def bernoulli(x: Tensor, *, dtype: int | None = None, seed: float = 0.0) -> Tensor:
    """One with the probability that x holds, else zero."""
    return torch.bernoulli(x).to(x.dtype if dtype is None else dtype_of(dtype))


@op("Multinomial")
def multinomial(x: Tensor, *, dtype: int = 6, sample_size: int = 1, seed: float = 0.0) -> Tensor:
    """Classes drawn by their unnormalised logarithmic probabilities."""
    return torch.multinomial(torch.softmax(x, -1), sample_size, replacement=True).to(dtype_of(dtype))
