"""Attention ops of ONNX Runtime, without caches that are shared or packed."""

from __future__ import annotations

from math import sqrt
from typing import Any

import torch
from torch import Tensor

from pruneopt.backends.torch.ops.attention import causal, heads_of, joined, rotate, turned_heads
from pruneopt.backends.torch.table import op
from pruneopt.backends.torch.values import together
from pruneopt.errors import PruneoptError

MS = "com.microsoft"


def _attend(q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None) -> Tensor:
    """`b h s d, b h t d, b h t e -> b s (h e)`."""
    scores = torch.matmul(q, k.transpose(2, 3)) * (scale or 1 / sqrt(q.shape[-1]))
    scores = scores if bias is None else scores + bias
    return joined(torch.matmul(torch.softmax(scores, -1), v))


def _mask_bias(mask: Tensor | None, keys: int, filter_value: float) -> Tensor | None:
    """What a mask adds: per key `b t`, per pair `b s t`, or lengths `b`."""
    if mask is None:
        return None
    if mask.dim() == 1:
        allowed = torch.arange(keys, device=mask.device)[None] < mask[:, None]
    elif mask.dim() > 3:
        raise PruneoptError("an attention mask of four dimensions is not known in PyTorch")
    else:
        allowed = mask != 0
    shaped = allowed[:, None, None] if allowed.dim() == 2 else allowed[:, None]
    return torch.where(shaped, 0.0, filter_value)


def _causal_bias(q: Tensor, keys: int) -> Tensor:
    allowed = causal(q.shape[2], keys, keys - q.shape[2], q.device)
    return torch.where(allowed, 0.0, torch.finfo(torch.float32).min)


def _added(*terms: Tensor | None) -> Tensor | None:
    given = [t for t in terms if t is not None]
    return sum(given[1:], given[0]) if given else None


@op("Attention", domain=MS, several=True)
def attention(
    x: Tensor,
    weights: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    past: Tensor | None = None,
    relative: Tensor | None = None,
    *,
    num_heads: int,
    qkv_hidden_sizes: list[int] | None = None,
    scale: float = 0.0,
    mask_filter_value: float = -10000.0,
    unidirectional: int = 0,
    do_rotary: int = 0,
    past_present_share_buffer: int = 0,
    rotary_embedding_dim: int = 0,
) -> tuple[Tensor, ...]:
    """`b s i, i W -> b s (h e)` where W holds queries, keys and values."""
    if do_rotary or past is not None:
        raise PruneoptError("com.microsoft Attention with rotation or a cache is not known in PyTorch")
    x, weights, bias, mask, relative = together(x, weights, bias, mask, relative)
    both = torch.matmul(x, weights)
    both = both if bias is None else both + bias
    widths = qkv_hidden_sizes or [weights.shape[1] // 3] * 3
    q, k, v = (heads_of(part, num_heads) for part in torch.split(both, widths, -1))
    forward = _causal_bias(q, k.shape[2]) if unidirectional else None
    terms = _added(_mask_bias(mask, k.shape[2], mask_filter_value), relative, forward)
    return (_attend(q, k, v, scale, terms), torch.stack([k, v]))


@op("MultiHeadAttention", domain=MS, several=True)
def multi_head(
    q: Tensor,
    k: Tensor | None = None,
    v: Tensor | None = None,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    relative: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    *,
    num_heads: int,
    scale: float = 0.0,
    mask_filter_value: float = -10000.0,
    unidirectional: int = 0,
) -> tuple[Tensor, ...]:
    """`b s (h d), b t (h d), b t (h e) -> b s (h e)`; keys and values may come as `b h t d`."""
    if k is None or v is None:
        raise PruneoptError("MultiHeadAttention with packed operands is not known in PyTorch")
    q, k, v, bias, mask, relative, past_key, past_value = together(
        q, k, v, bias, mask, relative, past_key, past_value
    )
    if bias is not None:
        width = q.shape[-1]
        q = q + bias[:width]
        if k.dim() == 3:
            k, v = k + bias[width : 2 * width], v + bias[2 * width :]
    q = heads_of(q, num_heads)
    k, v = (t if t.dim() == 4 else heads_of(t, num_heads) for t in (k, v))
    if past_key is not None and past_value is not None:
        k, v = torch.cat([past_key, k], 2), torch.cat([past_value, v], 2)
    forward = _causal_bias(q, k.shape[2]) if unidirectional else None
    terms = _added(_mask_bias(mask, k.shape[2], mask_filter_value), relative, forward)
    return _attend(q, k, v, scale, terms), k, v


@op("RotaryEmbedding", domain=MS)
def rotary(
    x: Tensor,
    positions: Tensor,
    cos: Tensor,
    sin: Tensor,
    *,
    interleaved: int = 0,
    is_packed_batching: int = 0,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
    scale: float = 1.0,
) -> Tensor:
    """`b h s d` or `b s (h d)`: pairs of entries turned by the angle of their position."""
    x, positions, cos, sin = together(x, positions, cos, sin)
    width = rotary_embedding_dim or 2 * cos.shape[-1]
    if positions.numel() == 1:  # of the first token
        positions = positions.reshape(1, 1) + torch.arange(x.shape[-2], device=x.device)
    heads = num_heads or x.shape[-1] // width
    return turned_heads(x, cos, sin, positions, heads, bool(interleaved), width)


@op("GroupQueryAttention", domain=MS, several=True)
def group_query(
    q: Tensor,
    k: Tensor | None,
    v: Tensor | None,
    past_key: Tensor | None,
    past_value: Tensor | None,
    lengths: Tensor,
    total: Tensor,
    cos: Tensor | None = None,
    sin: Tensor | None = None,
    *rest: Any,
    num_heads: int,
    kv_num_heads: int,
    scale: float = 0.0,
    do_rotary: int = 0,
    rotary_interleaved: int = 0,
    local_window_size: int = -1,
    softcap: float = 0.0,
    smooth_softmax: int = 0,
) -> tuple[Tensor, ...]:
    """`b s (k r d), b t (k d), b t (k d) -> b s (k r d)`, causal; a prompt without padding."""
    if any(r is not None for r in rest) or local_window_size != -1 or softcap or smooth_softmax:
        raise PruneoptError("GroupQueryAttention with windows, caps or sinks is not known in PyTorch")
    q, k, v, past_key, past_value, cos, sin = together(q, k, v, past_key, past_value, cos, sin)
    if k is None or v is None:
        each = q.shape[-1] // (num_heads + 2 * kv_num_heads)
        q, k, v = torch.split(q, [num_heads * each, kv_num_heads * each, kv_num_heads * each], -1)
    q, k, v = heads_of(q, num_heads), heads_of(k, kv_num_heads), heads_of(v, kv_num_heads)
    before = 0 if past_key is None else past_key.shape[2]
    if do_rotary and cos is not None and sin is not None:
        at = torch.arange(q.shape[2], device=q.device) + before
        c, s = cos[at][None, None], sin[at][None, None]
        q, k = (rotate(t, c, s, bool(rotary_interleaved), 2 * cos.shape[-1]) for t in (q, k))
    if past_key is not None and past_value is not None and before:
        k, v = torch.cat([past_key, k], 2), torch.cat([past_value, v], 2)
    repeats = num_heads // kv_num_heads
    wide = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
    return _attend(q, *wide, scale, _causal_bias(q, k.shape[2])), k, v
