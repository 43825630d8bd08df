"""Normalisation: means and variances over channels, groups or the last dimensions, and softmax."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pruneopt.backends.torch.table import op
from pruneopt.backends.torch.values import dtype_of, together


@op("BatchNormalization", fixed=(3, 4), several=True)
def batch_normalization(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    var: Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    spatial: int = 1,
    training_mode: int = 0,
    training: bool = False,
) -> tuple[Tensor, ...]:
    """Per channel (dimension 1); where the module trains, by the batch's statistics, and the running ones follow."""
    x, scale, bias, mean, var = together(x, scale, bias, mean, var)
    if training_mode and not training:
        return _batch_statistics(x, scale, bias, mean, var, epsilon, momentum)
    if mean.requires_grad or var.requires_grad:  # an exporter has shared them with weights that learn
        if not training:
            return _affine(x, scale * torch.rsqrt(var + epsilon), bias, mean), mean, var
        mean, var = mean.detach().clone(), var.detach().clone()
    y = F.batch_norm(x, mean, var, scale, bias, training, 1 - momentum, epsilon)
    return y, mean, var


def _affine(x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor) -> Tensor:
    shape = [1, -1] + [1] * (x.dim() - 2)
    return (x - mean.reshape(shape)) * scale.reshape(shape) + bias.reshape(shape)


def _batch_statistics(
    x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor, epsilon: float, momentum: float
) -> tuple[Tensor, ...]:
    """What ONNX's own training mode says: the running statistics are outputs, of the biased variance."""
    dims = [d for d in range(x.dim()) if d != 1]
    now, spread = x.mean(dims), x.var(dims, correction=0)
    y = _affine(x, scale * torch.rsqrt(spread + epsilon), bias, now)
    return y, mean * momentum + now * (1 - momentum), var * momentum + spread * (1 - momentum)


@op("InstanceNormalization")
def instance_normalization(x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    """Per sample and channel, over all further dimensions."""
    x, scale, bias = together(x, scale, bias)
    dims = list(range(2, x.dim()))
    centred = x - x.mean(dims, keepdim=True)
    normal = centred * torch.rsqrt(centred.square().mean(dims, keepdim=True) + epsilon)
    shape = [1, -1] + [1] * len(dims)
    return normal * scale.reshape(shape) + bias.reshape(shape)


@op("LayerNormalization", several=True)
def layer_normalization(
    x: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
    outputs: int = 1,
) -> tuple[Tensor, ...]:
    """Over the dimensions from `axis` on; also the mean and the inverse deviation."""
    x, scale, bias = together(x, scale, bias)
    shape = x.shape[axis % x.dim() :]
    if outputs == 1 and scale.shape == shape and (bias is None or bias.shape == shape):
        scale, bias = scale.to(x.dtype), None if bias is None else bias.to(x.dtype)
        return (F.layer_norm(x, shape, scale, bias, epsilon),)
    dims = list(range(axis % x.dim(), x.dim()))
    wide = x.to(dtype_of(stash_type))
    mean = wide.mean(dims, keepdim=True)
    inverse = torch.rsqrt((wide - mean).square().mean(dims, keepdim=True) + epsilon)
    y = ((wide - mean) * inverse).to(x.dtype) * scale
    return y if bias is None else y + bias, mean, inverse


@op("RMSNormalization", "SimplifiedLayerNormalization")
def rms_normalization(
    x: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    """x over its root mean square in the dimensions from `axis` on, times scale."""
    x, scale = together(x, scale)
    dims = list(range(axis % x.dim(), x.dim()))
    wide = x.to(torch.promote_types(x.dtype, dtype_of(stash_type)))
    normal = wide * torch.rsqrt(wide.square().mean(dims, keepdim=True) + epsilon)
    return normal.to(x.dtype) * scale


@op("GroupNormalization", since=18)
def group_normalization_18(
    x: Tensor, scale: Tensor, bias: Tensor, *, num_groups: int, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    """Over groups of channels; scale and bias one per group."""
    each = x.shape[1] // num_groups
    return group_normalization(
        x, scale.repeat_interleave(each), bias.repeat_interleave(each), num_groups=num_groups, epsilon=epsilon
    )


@op("GroupNormalization", since=21)
def group_normalization(
    x: Tensor, scale: Tensor, bias: Tensor, *, num_groups: int, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    """Over groups of channels; scale and bias one per channel."""
    x, scale, bias = together(x, scale, bias)
    return F.group_norm(x, num_groups, scale.to(x.dtype), bias.to(x.dtype), epsilon)


@op("LpNormalization")
def lp_normalization(x: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    """x over its norm along an axis; zero stays zero."""
    norm = torch.linalg.vector_norm(x, p, dim=axis, keepdim=True)
    return x / torch.where(norm == 0, torch.ones_like(norm), norm)


@op("LRN")
def lrn(x: Tensor, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0) -> Tensor:
    """x over a power of the mean square of its neighbours in the channel dimension."""
    before = (size - 1) // 2
    squares = F.pad(x.square(), [0, 0] * (x.dim() - 2) + [before, size - 1 - before])
    total = sum(squares.narrow(1, i, x.shape[1]) for i in range(size))
    return x / (bias + alpha / size * total) ** beta


@op("MeanVarianceNormalization")
def mean_variance_normalization(x: Tensor, *, axes: list[int] | None = None) -> Tensor:
    """x without its mean, over its deviation."""
    dims = [0, 2, 3] if axes is None else axes
    centred = x - x.mean(dims, keepdim=True)
    return centred / (centred.square().mean(dims, keepdim=True).sqrt() + 1e-9)


def _flat(x: Tensor, axis: int, function: Any) -> Tensor:
    """Before opset 13 softmax ran over all dimensions from `axis` on at once."""
    dim = axis % x.dim() if x.dim() else 0
    rows = 1
    for size in x.shape[:dim]:
        rows *= size
    flat = x.reshape(rows, -1)
    result: Tensor = function(flat, 1).reshape(x.shape)
    return result


@op("Softmax")
def softmax_1(x: Tensor, *, axis: int = 1) -> Tensor:
    """Exponentials over their sum, over the dimensions from `axis` on."""
    return _flat(x, axis, torch.softmax)


@op("Softmax", since=13)
def softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    """Exponentials over their sum along an axis."""
    return torch.softmax(x, axis)


@op("LogSoftmax")
def log_softmax_1(x: Tensor, *, axis: int = 1) -> Tensor:
    """The logarithm of softmax, over the dimensions from `axis` on."""
    return _flat(x, axis, torch.log_softmax)


@op("LogSoftmax", since=13)
def log_softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    """The logarithm of softmax along an axis."""
    return torch.log_softmax(x, axis)


def _hardmax(x: Tensor, axis: int) -> Tensor:
    return torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1.0)


@op("Hardmax")
def hardmax_1(x: Tensor, *, axis: int = 1) -> Tensor:
    """One at the first maximum over the dimensions from `axis` on, else zero."""
    return _flat(x, axis, _hardmax)


@op("Hardmax", since=13)
def hardmax(x: Tensor, *, axis: int = -1) -> Tensor:
    """One at the first maximum along an axis, else zero."""
    return _hardmax(x, axis)
