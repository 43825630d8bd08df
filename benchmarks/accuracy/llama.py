"""Llama as a next-token model, plain torch: loads a GGUF file by name and exports to ONNX."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Find = Callable[[str], Tensor]


class Shape:
    """The sizes that a GGUF file declares."""

    def __init__(self, declared: Callable[[str], Any]) -> None:
        self.width = int(declared("llama.embedding_length"))
        self.depth = int(declared("llama.block_count"))
        self.heads = int(declared("llama.attention.head_count"))
        self.groups = int(declared("llama.attention.head_count_kv"))
        self.epsilon = float(declared("llama.attention.layer_norm_rms_epsilon"))
        self.base = float(declared("llama.rope.freq_base"))
        self.head = self.width // self.heads


class Norm(nn.Module):
    """Root mean square norm."""

    def __init__(self, scale: Tensor, epsilon: float) -> None:
        super().__init__()
        self.scale, self.epsilon = nn.Parameter(scale), epsilon

    def forward(self, x: Tensor) -> Tensor:
        """x of shape [..., width]."""
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.epsilon) * self.scale


class Layer(nn.Module):
    """Grouped attention with rotary places, and a gated feed-forward, each behind a norm."""

    def __init__(self, find: Find, at: int, shape: Shape) -> None:
        super().__init__()
        self.shape = shape

        def matrix(name: str, heads: int | None = None) -> nn.Linear:
            weight = find(f"blk.{at}.{name}.weight")
            return _linear(weight if heads is None else _halves(weight, heads))

        self.norm = Norm(find(f"blk.{at}.attn_norm.weight"), shape.epsilon)
        self.query, self.key = matrix("attn_q", shape.heads), matrix("attn_k", shape.groups)
        self.value, self.out = matrix("attn_v"), matrix("attn_output")
        self.norm2 = Norm(find(f"blk.{at}.ffn_norm.weight"), shape.epsilon)
        self.gate, self.up, self.down = matrix("ffn_gate"), matrix("ffn_up"), matrix("ffn_down")

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        """x [batch, tokens, width]; cos and sin [tokens, head]; mask [tokens, tokens], added to the scores."""
        y = self.norm(x)
        q, k, v = (self._split(linear(y)) for linear in (self.query, self.key, self.value))
        q, k = (t * cos + _turned(t) * sin for t in (q, k))
        repeats = self.shape.heads // self.shape.groups
        k, v = (t.repeat_interleave(repeats, 1) for t in (k, v))
        scores = q @ k.transpose(-1, -2) * self.shape.head**-0.5 + mask
        x = x + self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.shape.head)).transpose(1, 2)


class Llama(nn.Module):
    """Token ids [batch, tokens] to logits [batch, tokens, words]."""

    def __init__(self, find: Find, shape: Shape, longest: int) -> None:
        super().__init__()
        self.words = nn.Embedding.from_pretrained(find("token_embd.weight"))
        self.layers = nn.ModuleList(Layer(find, i, shape) for i in range(shape.depth))
        self.norm = Norm(find("output_norm.weight"), shape.epsilon)
        speeds = shape.base ** (-torch.arange(0, shape.head, 2) / shape.head)
        angles = torch.outer(torch.arange(longest), speeds).repeat(1, 2)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())
        self.register_buffer("mask", torch.full((longest, longest), -1e4).triu(1))

    def forward(self, input_ids: Tensor) -> Tensor:
        """Logits; the embedding serves as the classifier too."""
        n = input_ids.shape[1]
        x = self.words(input_ids)
        for layer in self.layers:
            x = layer(x, self.cos[:n], self.sin[:n], self.mask[:n, :n])
        return F.linear(self.norm(x), self.words.weight)


def _linear(weight: Tensor) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    made.weight = nn.Parameter(weight)
    return made


def _halves(weight: Tensor, heads: int) -> Tensor:
    """GGUF keeps the two numbers that rotate together side by side; here they are half a head apart."""
    return weight.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)


def _turned(x: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat([-b, a], -1)


def export(gguf: Path, path: Path, longest: int) -> None:
    """As ONNX with dynamic batch and length: input `input_ids`, output `logits`."""
    dims = {0: torch.export.Dim("batch", min=1, max=512), 1: torch.export.Dim("tokens", min=2, max=longest)}
    torch.onnx.export(
        build(gguf, longest),
        (torch.ones(2, 7, dtype=torch.long),),
        str(path),
        dynamo=True,
        opset_version=18,
        external_data=False,
        input_names=["input_ids"],
        output_names=["logits"],
        dynamic_shapes=(dims,),
    )


def build(gguf: Path, longest: int) -> Llama:
    """The model in a GGUF file, dequantised to float32, for up to `longest` tokens."""
    from gguf import GGUFReader, dequantize

    reader = GGUFReader(gguf)
    stored = {t.name: t for t in reader.tensors}

    def find(name: str) -> Tensor:
        tensor = stored[name]
        return torch.tensor(dequantize(tensor.data, tensor.tensor_type))

    shape = Shape(lambda key: reader.fields[key].contents())
    with torch.no_grad():
        return Llama(find, shape, longest).eval()
