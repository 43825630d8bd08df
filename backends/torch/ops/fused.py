"""Fused ops of ONNX Runtime: what its optimisers make of standard ops."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pruneopt.backends.torch.ops import activations
from pruneopt.backends.torch.ops.contraction import gemm
from pruneopt.backends.torch.ops.convolution import conv
from pruneopt.backends.torch.ops.normalisation import rms_normalization
from pruneopt.backends.torch.table import op
from pruneopt.backends.torch.values import alike, together
from pruneopt.errors import PruneoptError

MS = "com.microsoft"


@op("BiasGelu", domain=MS)
def bias_gelu(x: Tensor, bias: Tensor) -> Tensor:
    """Gelu of a sum."""
    x, bias = together(x, bias)
    return F.gelu(x + bias)


@op("FastGelu", domain=MS)
def fast_gelu(x: Tensor, bias: Tensor | None = None) -> Tensor:
    """The tanh approximation of Gelu, of a sum."""
    x, bias = together(x, bias)
    return F.gelu(x if bias is None else x + bias, approximate="tanh")


@op("Gelu", domain=MS)
def gelu(x: Tensor) -> Tensor:
    """Gelu."""
    return F.gelu(x)


@op("QuickGelu", domain=MS)
def quick_gelu(x: Tensor, *, alpha: float = 1.702) -> Tensor:
    """x sigmoid(alpha x)."""
    return x * torch.sigmoid(alpha * x)


def _activated(x: Tensor, name: str, alpha: float = 0.0, beta: float = 0.0) -> Tensor:
    """The activation that a fused op ends with."""
    functions: dict[str, Any] = {
        "": lambda x: x,
        "Relu": torch.relu,
        "Tanh": torch.tanh,
        "Sigmoid": torch.sigmoid,
        "LeakyRelu": lambda x: F.leaky_relu(x, alpha),
        "Clip": lambda x: x.clamp(alpha, beta),
        "HardSigmoid": lambda x: activations.hard_sigmoid(x, alpha=alpha, beta=beta),
        "HardSwish": F.hardswish,
    }
    if name not in functions:
        raise PruneoptError(f"the fused activation '{name}' is not known in PyTorch")
    result: Tensor = functions[name](x)
    return result


@op("FusedConv", domain=MS)
def fused_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    added: Tensor | None = None,
    *,
    activation: str = "",
    activation_params: list[float] | None = None,
    **attributes: Any,
) -> Tensor:
    """Conv, an addition and an activation."""
    y = conv(x, weight, bias, **attributes)
    return _activated(y if added is None else y + added, activation, *(activation_params or []))


@op("FusedGemm", domain=MS)
def fused_gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    activation: str = "",
    activation_alpha: float = 0.0,
    activation_beta: float = 0.0,
    **attributes: Any,
) -> Tensor:
    """Gemm and an activation."""
    return _activated(gemm(a, b, c, **attributes), activation, activation_alpha, activation_beta)


@op("FusedMatMul", "TransposeMatMul", domain=MS)
def fused_matmul(
    a: Tensor,
    b: Tensor,
    *,
    alpha: float = 1.0,
    transA: int = 0,
    transB: int = 0,
    transBatchA: int = 0,
    transBatchB: int = 0,
) -> Tensor:
    """MatMul of operands that may be transposed, in the last two dimensions or with the first as a batch."""
    a, b = alike(a, b)
    a, b = _turned(a, transA, transBatchA), _turned(b, transB, transBatchB)
    return torch.matmul(a, b) * alpha


def _turned(x: Tensor, last: int, batch: int) -> Tensor:
    if batch and x.dim() > 2:
        x = x.movedim(0, -2)
    return x.transpose(-1, -2) if last and x.dim() > 1 else x


@op("SkipLayerNormalization", domain=MS, several=True)
def skip_layer_norm(
    x: Tensor,
    skip: Tensor,
    gamma: Tensor,
    beta: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    epsilon: float = 1e-12,
) -> tuple[Tensor | None, ...]:
    """LayerNormalization of a sum; also that sum, as the fourth output."""
    x, skip, gamma, beta, bias = together(x, skip, gamma, beta, bias)
    total = x + skip if bias is None else x + skip + bias
    return F.layer_norm(total, gamma.shape, gamma, beta, epsilon), None, None, total


@op("SkipSimplifiedLayerNormalization", domain=MS, several=True)
def skip_rms_norm(
    x: Tensor, skip: Tensor, gamma: Tensor, bias: Tensor | None = None, *, epsilon: float = 1e-12
) -> tuple[Tensor | None, ...]:
    """RMSNormalization of a sum; also that sum, as the fourth output."""
    x, skip, gamma, bias = together(x, skip, gamma, bias)
    total = x + skip if bias is None else x + skip + bias
    return rms_normalization(total, gamma, epsilon=epsilon), None, None, total


@op("EmbedLayerNormalization", domain=MS, several=True)
def embed_layer_norm(
    ids: Tensor,
    segments: Tensor | None,
    words: Tensor,
    places: Tensor,
    kinds: Tensor | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    mask: Tensor | None = None,
    positions: Tensor | None = None,
    *,
    epsilon: float = 1e-12,
    mask_index_type: int = 0,
) -> tuple[Tensor, ...]:
    """Embeddings of words, positions and segments added and normalised; also mask lengths, and the sum."""
    ids, segments, words, places, kinds, gamma, beta, mask, positions = together(
        ids, segments, words, places, kinds, gamma, beta, mask, positions
    )
    at = torch.arange(ids.shape[1], device=ids.device)[None] if positions is None else positions.long()
    total = words[ids.long()] + places[at]
    if kinds is not None and segments is not None:
        total = total + kinds[segments.long()]
    y = F.layer_norm(total, total.shape[-1:], gamma, beta, epsilon)
    lengths = torch.zeros(ids.shape[0], dtype=torch.int32) if mask is None else mask.sum(1).to(torch.int32)
    return y, lengths, total


@op("MatMulNBits", domain=MS, fixed=(2,))
def matmul_n_bits(
    x: Tensor,
    packed: Tensor,
    scales: Tensor,
    zeros: Tensor | None = None,
    groups: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    K: int,
    N: int,
    bits: int = 4,
    block_size: int,
    accuracy_level: int = 0,
) -> Tensor:
    """x times the transpose of a matrix stored in blocks of a few bits, each with a scale and a zero point."""
    x, packed, scales, zeros, groups, bias = together(x, packed, scales, zeros, groups, bias)
    blocks = packed.shape[1]
    codes = _unpacked(packed.reshape(N, -1), bits).reshape(N, blocks, -1)[..., :block_size]
    centre: Any = float(1 << (bits - 1))
    if zeros is not None:
        whole = zeros if zeros.is_floating_point() else _unpacked(zeros.reshape(N, -1), bits)
        centre = whole.reshape(N, -1)[:, :blocks, None].to(x.dtype)
    if groups is not None:
        raise PruneoptError("MatMulNBits with a group index is not known in PyTorch")
    weight = (codes.to(x.dtype) - centre) * scales.reshape(N, blocks, 1)
    y = torch.matmul(x, weight.reshape(N, -1)[:, :K].t())
    return y if bias is None else y + bias


def _unpacked(packed: Tensor, bits: int) -> Tensor:
    """Codes of a few bits from bytes, the low bits first."""
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=packed.device)
    return ((packed.unsqueeze(-1) >> shifts) & ((1 << bits) - 1)).flatten(-2)
