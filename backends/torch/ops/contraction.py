"""Sums of products: MatMul, Gemm, Einsum."""

from __future__ import annotations

import torch
from torch import Tensor

from pruneopt.backends.torch.table import op
from pruneopt.backends.torch.values import alike


@op("MatMul")
def matmul(a: Tensor, b: Tensor) -> Tensor:
    """`... m k, ... k n -> ... m n`; integers too."""
    return torch.matmul(*alike(a, b))


@op("Gemm")
def gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Tensor:
    """alpha a b + beta c, where a and b may come transposed."""
    a, b, c = alike(a, b, c)
    a, b = a.t() if transA else a, b.t() if transB else b
    if c is not None and c.is_floating_point() and alpha == beta == 1.0 and c.dim() <= 2:
        return torch.addmm(c, a, b)
    product = torch.matmul(a, b)
    product = product if alpha == 1.0 else product * alpha
    if c is None:
        return product.to(a.dtype)
    return (product + (c if beta == 1.0 else c * beta)).to(a.dtype)


@op("Einsum")
def einsum(*terms: Tensor, equation: str) -> Tensor:
    """The sum that the equation says."""
    return torch.einsum(equation.replace(" ", ""), *alike(*terms))


@op("Det")
def determinant(x: Tensor) -> Tensor:
    """`... n n -> ...`."""
    result: Tensor = torch.linalg.det(x)
    return result
