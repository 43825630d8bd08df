"""Windows that slide over spatial dimensions: how far inputs are padded, and how long outputs get."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Windows:
    """Windows over the spatial dimensions of a tensor, one entry each.

    Attributes:
        kernel: entries of a window.
        strides: distance of windows.
        dilations: distance of the entries of a window.
        before: padding at the beginning.
        after: padding at the end, as far as the node asks for it.
        counts: number of windows.
        sizes: the input's sizes.
    """

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    before: list[int]
    after: list[int]
    counts: list[int]
    sizes: list[int]

    @property
    def reach(self) -> list[int]:
        """What has to be added at the end (or cut, if negative) so that exactly `counts` windows fit."""
        return [
            (n - 1) * s + (k - 1) * d + 1 - size - b
            for n, s, k, d, size, b in zip(
                self.counts, self.strides, self.kernel, self.dilations, self.sizes, self.before, strict=True
            )
        ]

    def pad(self, x: Tensor, value: float = 0.0, after: list[int] | None = None) -> Tensor:
        """x with `before` and `after` (default: `reach`) added to its last dimensions."""
        ends = self.reach if after is None else after
        amounts = [n for b, a in zip(self.before[::-1], ends[::-1], strict=True) for n in (b, a)]
        return F.pad(x, amounts, value=value) if any(amounts) else x


def windows(
    x: Tensor,
    kernel: list[int],
    strides: list[int] | None = None,
    dilations: list[int] | None = None,
    pads: list[int] | None = None,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
) -> Windows:
    """The windows that a node with these attributes slides over x, of shape [batch, channels, *sizes]."""
    rank = len(kernel)
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    sizes = list(x.shape[2:])
    extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        counts = [-(-n // s) for n, s in zip(sizes, strides, strict=True)]
        total = [
            max(0, (c - 1) * s + e - n) for c, s, e, n in zip(counts, strides, extents, sizes, strict=True)
        ]
        before = [t // 2 if auto_pad == "SAME_UPPER" else t - t // 2 for t in total]
        after = [t - b for t, b in zip(total, before, strict=True)]
        return Windows(kernel, strides, dilations, before, after, counts, sizes)
    amounts = pads if pads and auto_pad in ("NOTSET", "") else [0] * (2 * rank)
    before, after = amounts[:rank], amounts[rank:]
    counts = [
        _count(n, b, a, e, s, ceil_mode)
        for n, b, a, e, s in zip(sizes, before, after, extents, strides, strict=True)
    ]
    return Windows(kernel, strides, dilations, before, after, counts, sizes)


def _count(size: int, before: int, after: int, extent: int, stride: int, ceil_mode: int) -> int:
    room = size + before + after - extent
    if not ceil_mode:
        # Cut towards zero, as ONNX Runtime does: a window a little longer than everything is one window.
        return int(room / stride) + 1
    count = -(-room // stride) + 1
    # A window that would begin in the padding at the end is none.
    return count - 1 if (count - 1) * stride >= size + before else count
