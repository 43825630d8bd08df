"""Convolutions of any rank."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pruneopt.backends.torch.table import op
from pruneopt.backends.torch.values import alike
from pruneopt.backends.torch.windows import windows

CONVOLVE: tuple[Any, ...] = (None, F.conv1d, F.conv2d, F.conv3d)
TRANSPOSED: tuple[Any, ...] = (None, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


@op("Conv")
def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: list[int] | None = None,
    group: int = 1,
    kernel_shape: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """`b (g i) *, (g o) i *, (g o) -> b (g o) *`."""
    x, weight, bias = alike(x, weight, bias)
    over = windows(x, list(weight.shape[2:]), strides, dilations, pads, auto_pad)
    rank = len(over.kernel)
    uneven = over.before != over.after
    padded = over.pad(x, after=over.after) if uneven else x
    amounts = [0] * rank if uneven else over.before
    result: Tensor = CONVOLVE[rank](padded, weight, bias, over.strides, amounts, over.dilations, group)
    return result


@op("ConvTranspose")
def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: list[int] | None = None,
    group: int = 1,
    kernel_shape: list[int] | None = None,
    output_padding: list[int] | None = None,
    output_shape: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """`b (g i) *, (g i) o *, (g o) -> b (g o) *`: everything it reaches, cut or filled up to the size asked for."""
    x, weight, bias = alike(x, weight, bias)
    kernel = list(weight.shape[2:])
    rank = len(kernel)
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    extra, amounts = output_padding or [0] * rank, pads or [0] * (2 * rank)
    whole = TRANSPOSED[rank](x, weight, None, strides, 0, 0, group, dilations)
    reach = [n + e for n, e in zip(whole.shape[2:], extra, strict=True)]
    same = auto_pad in ("SAME_UPPER", "SAME_LOWER")
    if output_shape is None and same:  # what is too small stays so
        output_shape = [min(n * s, r) for n, s, r in zip(x.shape[2:], strides, reach, strict=True)]
    if output_shape is not None:
        total = [r - n for r, n in zip(reach, output_shape[-rank:], strict=True)]
        # The larger half is cut at the beginning, but for SAME_UPPER.
        before = [max(t, 0) // 2 if auto_pad == "SAME_UPPER" else -(-max(t, 0) // 2) for t in total]
        amounts = before + [t - b for t, b in zip(total, before, strict=True)]
    cut = [n for d in range(rank)[::-1] for n in (-amounts[d], extra[d] - amounts[rank + d])]
    result: Tensor = F.pad(whole, cut) if any(cut) else whole
    return result if bias is None else result + bias.reshape([-1] + [1] * rank)


@op("DeformConv")
def deform_conv(
    x: Tensor,
    weight: Tensor,
    offset: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    dilations: list[int] | None = None,
    group: int = 1,
    kernel_shape: list[int] | None = None,
    offset_group: int = 1,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """Convolution whose windows read at places moved by the offsets, bilinearly."""
    over = windows(x, list(weight.shape[2:]), strides, dilations, pads)
    b, c, height, width = x.shape
    (kh, kw), (oh, ow), n = over.kernel, over.counts, offset_group
    moved = offset.reshape(b, n, kh, kw, 2, oh, ow)
    device = x.device
    rows = (torch.arange(oh, device=device) * over.strides[0] - over.before[0])[None, None, :, None]
    columns = (torch.arange(ow, device=device) * over.strides[1] - over.before[1])[None, None, None, :]
    rows = rows + (torch.arange(kh, device=device) * over.dilations[0])[:, None, None, None]
    columns = columns + (torch.arange(kw, device=device) * over.dilations[1])[None, :, None, None]
    y = (moved[:, :, :, :, 0] + rows) * 2 / max(height - 1, 1) - 1
    z = (moved[:, :, :, :, 1] + columns) * 2 / max(width - 1, 1) - 1
    grid = torch.stack([z, y], -1).reshape(b * n, kh * kw * oh, ow, 2)
    seen = F.grid_sample(x.reshape(b * n, c // n, height, width), grid, align_corners=True)
    seen = seen.reshape(b, n, c // n, kh, kw, oh, ow)
    if mask is not None:
        seen = seen * mask.reshape(b, n, 1, kh, kw, oh, ow)
    seen = seen.reshape(b, group, c // group * kh * kw, oh * ow)
    result = torch.einsum("bgik,goi->bgok", seen, weight.reshape(group, weight.shape[0] // group, -1))
    result = result.reshape(b, -1, oh, ow)
    return result if bias is None else result + bias.reshape(-1, 1, 1)
