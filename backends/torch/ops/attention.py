"""Attention and rotary embedding as single ops."""

from __future__ import annotations

from math import sqrt

import torch
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
    present_key, present_value = k, v
    repeats = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
    root = sqrt(scale or 1 / sqrt(q.shape[-1]))
    stages = [torch.matmul(q * root, (k * root).transpose(2, 3))]
    past = 0 if past_key is None else past_key.shape[2]
    bias = _bias(q, k, mask, bool(is_causal), past, lengths)
    capped = softcap * torch.tanh(stages[0] / softcap) if softcap else stages[0]
    biased = capped if bias is None else capped + bias
    kind = biased.dtype if softmax_precision is None else dtype_of(softmax_precision)
    weights = torch.softmax(biased, -1, dtype=kind).to(q.dtype)
    if bias is not None:  # a query that sees nothing gets nothing
        weights = torch.where(torch.isneginf(bias).all(-1, keepdim=True), torch.zeros_like(weights), weights)
    y = torch.matmul(weights, v)
    shown = (stages[0], biased if softcap == 0 else capped, capped if softcap == 0 else biased, weights)
    if qk_matmul_output_mode == 1:
        shown = (stages[0], biased, capped, weights)
    if qk_matmul_output_mode == 2:
        shown = (stages[0], biased, capped, weights)
    return joined(y) if flat else y, present_key, present_value, shown[qk_matmul_output_mode]


def _bias(
    q: Tensor, k: Tensor, mask: Tensor | None, is_causal: bool, past: int, lengths: Tensor | None
) -> Tensor | None:
    """What is added to the scores, `... s t`; None for nothing."""
    allowed: Tensor | None = None
    queries, keys = q.shape[2], k.shape[2]
    if is_causal:
        allowed = causal(queries, keys, past, q.device)
    if lengths is not None:
        seen = (torch.arange(keys, device=q.device)[None] < lengths[:, None])[:, None, None]
        allowed = seen if allowed is None else allowed & seen
    if mask is not None and mask.shape[-1] < keys:  # entries beyond the mask are not seen
        filling = 0 if mask.dtype == torch.bool else -torch.inf
        mask = torch.nn.functional.pad(mask, [0, keys - mask.shape[-1]], value=filling)
    if mask is not None and mask.dtype == torch.bool:
        allowed = mask if allowed is None else allowed & mask
        mask = None
    if allowed is None:
        return mask
    bias = torch.zeros(allowed.shape, dtype=q.dtype, device=q.device).masked_fill(~allowed, -torch.inf)
    return bias if mask is None else bias + mask


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
    flat = x.dim() == 3
    data = heads_of(x, num_heads) if flat else x
    if positions is not None:
        cos, sin = cos[positions], sin[positions]
    turned = rotate(data, cos.unsqueeze(1), sin.unsqueeze(1), bool(interleaved), rotary_embedding_dim)
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
