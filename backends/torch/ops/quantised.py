"""Quantisation: integers with scales and zero points. Rounding has no gradient; scales do."""

from __future__ import annotations

import torch
from torch import Tensor

from pruneopt.backends.torch.ops.convolution import conv
from pruneopt.backends.torch.table import op
from pruneopt.backends.torch.values import dtype_of, together
from pruneopt.errors import PruneoptError

MS = "com.microsoft"
_RANGES = {torch.uint8: (0, 255), torch.int8: (-128, 127), torch.int16: (-(2**15), 2**15 - 1)}
_RANGES[torch.int32] = (0, 2**16 - 1)  # uint16, which PyTorch hardly computes with
_FLOATS = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz)


def _along(x: Tensor, term: Tensor, axis: int, block: int) -> Tensor:
    """A scale or zero point at every entry: a scalar, a vector along `axis`, or blocks of it."""
    if term.numel() == 1 and term.dim() <= 1:
        return term.reshape(())
    axis %= x.dim()
    if block:
        return term.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
    return term.reshape([-1 if d == axis else 1 for d in range(x.dim())])


@op("QuantizeLinear", fixed=(1,))
@op("QuantizeLinear", domain=MS, fixed=(1,))
def quantize(
    x: Tensor,
    scale: Tensor,
    zero: Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    precision: int = 0,
    saturate: int = 1,
) -> Tensor:
    """round(x / scale) + zero, within the range of its type."""
    x, scale, zero = together(x, scale, zero)
    kind = zero.dtype if zero is not None else dtype_of(output_dtype) if output_dtype else torch.uint8
    scaled = x / _along(x, scale, axis, block_size).to(x.dtype)
    if kind in _FLOATS:
        most = torch.finfo(kind).max
        return (scaled.clamp(-most, most) if saturate else scaled).to(kind)
    if kind not in _RANGES:
        raise PruneoptError(f"quantisation to {kind} is not known in PyTorch")
    low, high = _RANGES[kind]
    shift = 0 if zero is None else _along(x, zero, axis, block_size)
    return (torch.round(scaled) + shift).clamp(low, high).to(kind)


@op("DequantizeLinear", fixed=(1,))
@op("DequantizeLinear", domain=MS, fixed=(1,))
def dequantize(
    x: Tensor,
    scale: Tensor,
    zero: Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
) -> Tensor:
    """(x - zero) * scale."""
    x, scale, zero = together(x, scale, zero)
    kind = dtype_of(output_dtype) if output_dtype else scale.dtype
    value = x.to(scale.dtype)
    if zero is not None:
        value = value - _along(x, zero, axis, block_size).to(scale.dtype)
    return (value * _along(x, scale, axis, block_size)).to(kind)


@op("DynamicQuantizeLinear", several=True)
def dynamic_quantize(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x in 8 bits over its own range, with the scale and zero point of that."""
    low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
    scale = (high - low) / 255
    safe = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero = torch.round(-low / safe).clamp(0, 255)
    return (torch.round(x / safe) + zero).clamp(0, 255).to(torch.uint8), scale, zero.to(torch.uint8)


def _centred(x: Tensor, zero: Tensor | None, axis: int) -> Tensor:
    """x - zero as float64, which holds sums of 8-bit products exactly."""
    wide = x.double()
    if zero is None:
        return wide
    if zero.numel() == 1:
        return wide - zero.double().reshape(())
    shape = list(zero.shape) if zero.dim() > 1 else [-1 if d == axis % x.dim() else 1 for d in range(x.dim())]
    return wide - zero.double().reshape(shape)


@op("MatMulInteger", fixed=(2, 3))
def matmul_integer(
    a: Tensor, b: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None
) -> Tensor:
    """(a - a_zero) (b - b_zero) in 32 bits."""
    a, b, a_zero, b_zero = together(a, b, a_zero, b_zero)
    return torch.matmul(_centred(a, a_zero, -2), _centred(b, b_zero, -1)).to(torch.int32)


@op("ConvInteger", fixed=(2, 3))
def conv_integer(
    x: Tensor,
    w: Tensor,
    x_zero: Tensor | None = None,
    w_zero: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: list[int] | None = None,
    group: int = 1,
    kernel_shape: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """Conv of (x - x_zero) and (w - w_zero) in 32 bits."""
    x, w, x_zero, w_zero = together(x, w, x_zero, w_zero)
    found = conv(
        _centred(x, x_zero, 1), _centred(w, w_zero, 0), auto_pad=auto_pad, dilations=dilations,
        group=group, pads=pads, strides=strides,
    )  # fmt: skip
    return found.to(torch.int32)


@op("QLinearMatMul", fixed=(1, 2, 4, 5, 6, 7))
def qlinear_matmul(
    a: Tensor, a_scale: Tensor, a_zero: Tensor, b: Tensor, b_scale: Tensor, b_zero: Tensor,
    y_scale: Tensor, y_zero: Tensor,
) -> Tensor:  # fmt: skip
    """MatMul of dequantised operands, quantised again."""
    left = dequantize(a, a_scale, a_zero, axis=-2).double()
    right = dequantize(b, b_scale, b_zero, axis=-1).double()
    return quantize(torch.matmul(left, right), y_scale, y_zero)


@op("QLinearConv", fixed=(1, 2, 4, 5, 6, 7))
def qlinear_conv(
    x: Tensor, x_scale: Tensor, x_zero: Tensor, w: Tensor, w_scale: Tensor, w_zero: Tensor,
    y_scale: Tensor, y_zero: Tensor, bias: Tensor | None = None, *,
    auto_pad: str = "NOTSET", dilations: list[int] | None = None, group: int = 1,
    kernel_shape: list[int] | None = None, pads: list[int] | None = None, strides: list[int] | None = None,
) -> Tensor:  # fmt: skip
    """Conv of dequantised operands, quantised again; the bias has the scale of the products."""
    data = dequantize(x, x_scale, x_zero).double()
    weight = dequantize(w, w_scale, w_zero, axis=0).double()
    added = None if bias is None else bias.double() * (x_scale * w_scale).double()
    found = conv(
        data, weight, added, auto_pad=auto_pad, dilations=dilations, group=group, pads=pads, strides=strides
    )
    return quantize(found, y_scale, y_zero)
