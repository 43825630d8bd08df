"""Attention and rotary embedding as single ops."""

from __future__ import annotations

from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from pruneopt.backends.torch.table import op
from pruneopt.backends.torch.values import dtype_of, together


def heads_of(x: Tensor, heads: int) -> Tensor:
    """`b s (h d) -> b h s d`."""
    return x.reshape(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


def joined(x: Tensor) -> Tensor:
    """`b h s d -> b s (h d)`."""
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], -1)


def causal(queries: int, keys: int, past: int, device: torch.device) -> Tensor:
    """`queries keys`: whether a query may see a key, the first query being at position `past`."""
    places = torch.arange(queries, device=device)[:, None] + past
    return torch.arange(keys, device=device)[None] <= places


@op("Attention", since=23, several=True)
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    lengths: Tensor | None = None,
    *,
    is_causal: int = 0,
    left_window_size: int = -1,
    right_window_size: int = -1,
    kv_num_heads: int = 0,
    q_num_heads: int = 0,
    qk_matmul_output_mode: int = 0,
    scale: float | None = None,
    softcap: float = 0.0,
    softmax_precision: int | None = None,
    outputs: int = 1,
) -> tuple[Tensor, ...]:
    """`b (k r) s d, b k t d, b k t e -> b (k r) s e`, or with heads and width as one last dimension."""
    q, k, v, mask, past_key, past_value, lengths = together(q, k, v, mask, past_key, past_value, lengths)
    flat = q.dim() == 3
    if flat:
        q, k, v = heads_of(q, q_num_heads), heads_of(k, kv_num_heads), heads_of(v, kv_num_heads)
    if past_key is not None and past_value is not None:
        k, v = torch.cat([past_key, k], 2), torch.cat([past_value, v], 2)
    repeats = q.shape[1] // k.shape[1]
    keys, values = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
    root = sqrt(scale or 1 / sqrt(q.shape[-1]))
    scores = torch.matmul(q * root, (keys * root).transpose(2, 3))
    capped = softcap * torch.tanh(scores / softcap) if softcap else scores
    past = 0 if past_key is None else past_key.shape[2]
    bias = _bias(q, keys, mask, lengths, past, bool(is_causal), (left_window_size, right_window_size))
    biased = capped if bias is None else capped + bias
    weights = _weights(biased, bias, softmax_precision).to(q.dtype)
    y = torch.matmul(weights, values)
    shown = (scores, capped, biased, weights)[qk_matmul_output_mode]
    return joined(y) if flat else y, k, v, shown


def _weights(biased: Tensor, bias: Tensor | None, precision: int | None) -> Tensor:
    """The softmax of scores; a query that sees nothing gets nothing, and its gradient is zero."""
    kind = biased.dtype if precision is None else dtype_of(precision)
    if bias is None:
        return torch.softmax(biased, -1, dtype=kind)
    blind = torch.isneginf(bias).all(-1, keepdim=True)
    return torch.softmax(biased.masked_fill(blind, 0.0), -1, dtype=kind).masked_fill(blind, 0.0)


def _bias(
    q: Tensor,
    k: Tensor,
    mask: Tensor | None,
    lengths: Tensor | None,
    past: int,
    is_causal: bool,
    window: tuple[int, int],
) -> Tensor | None:
    """What is added to the scores, `... s t`; None for nothing."""
    keys = k.shape[2]
    if mask is not None and mask.shape[-1] < keys:  # entries beyond the mask are not seen
        filling = 0 if mask.dtype == torch.bool else -torch.inf
        mask = F.pad(mask, [0, keys - mask.shape[-1]], value=filling)
    allowed = _allowed(q, k, lengths, past, is_causal, window)
    if mask is not None and mask.dtype == torch.bool:
        allowed.append(mask)
        mask = None
    if not allowed:
        return mask
    seen = allowed[0]
    for each in allowed[1:]:
        seen = seen & each
    bias = torch.zeros(seen.shape, dtype=q.dtype, device=q.device).masked_fill(~seen, -torch.inf)
    return bias if mask is None else bias + mask


def _allowed(
    q: Tensor, k: Tensor, lengths: Tensor | None, past: int, is_causal: bool, window: tuple[int, int]
) -> list[Tensor]:
    """Which pairs each rule lets through, `... s t`; the first query stands where the valid keys before it end."""
    queries, keys = q.shape[2], k.shape[2]
    places = torch.arange(keys, device=q.device)
    start: Tensor | int = past
    if lengths is not None:
        start = (lengths.reshape(-1, 1, 1, 1) - queries).long()
    behind = torch.arange(queries, device=q.device)[:, None] + start - places  # how far a key lies back
    found = [behind >= 0] if is_causal else []
    if window[0] >= 0:
        found.append(behind <= window[0])
    if window[1] >= 0:
        found.append(-behind <= window[1])
    if lengths is not None:
        found.append(places < lengths.reshape(-1, 1, 1, 1))
    return found


@op("RotaryEmbedding", since=23)
def rotary(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor | None = None,
    *,
    interleaved: int = 0,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
) -> Tensor:
    """`b h s d` or `b s (h d)`: pairs of entries turned by the angle of their position."""
    x, cos, sin, positions = together(x, cos, sin, positions)
    return turned_heads(x, cos, sin, positions, num_heads, bool(interleaved), rotary_embedding_dim)


def turned_heads(
    x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None, heads: int, interleaved: bool, width: int
) -> Tensor:
    """`b h s d`, or `b s (h d)` with that many heads, turned; without positions cos and sin are `b s d/2`."""
    flat = x.dim() == 3
    data = heads_of(x, heads) if flat else x
    if positions is not None:
        at = positions.long()
        cos, sin = cos[at], sin[at]
    turned = rotate(data, cos.unsqueeze(1), sin.unsqueeze(1), interleaved, width)
    return joined(turned) if flat else turned


def rotate(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool, width: int) -> Tensor:
    """The first `width` entries (0: all) of `b h s d` turned; cos and sin are `b 1 s d/2`."""
    width = width or x.shape[-1]
    turned, rest = x[..., :width], x[..., width:]
    cos, sin = cos[..., : width // 2].to(x.dtype), sin[..., : width // 2].to(x.dtype)
    if interleaved:
        a, b = turned[..., 0::2], turned[..., 1::2]
        both = torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)
    else:
        a, b = turned.chunk(2, -1)
        both = torch.cat([a * cos - b * sin, a * sin + b * cos], -1)
    return torch.cat([both, rest], -1) if rest.shape[-1] else both
