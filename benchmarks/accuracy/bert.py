"""BERT as a sentence encoder, plain torch: loads a safetensors file by name and exports to ONNX."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Layer(nn.Module):
    """Self-attention and feed-forward, each with a norm behind it."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """x of shape [batch, tokens, width], bias [batch, 1, 1, tokens]."""
        q, k, v = (self._split(linear(x)) for linear in (self.query, self.key, self.value))
        scores = q @ k.transpose(-1, -2) / (x.shape[-1] / self.heads) ** 0.5 + bias
        context = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = self.norm(x + self.out(context))
        return self.norm2(x + self.down(F.gelu(self.up(x))))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Encoder(nn.Module):
    """Token ids and mask of shape [batch, tokens] to unit vectors [batch, width]."""

    def __init__(self, weights: Mapping[str, Tensor], heads: int = 12) -> None:
        super().__init__()
        words = weights["embeddings.word_embeddings.weight"]
        places = (
            weights["embeddings.position_embeddings.weight"]
            + weights["embeddings.token_type_embeddings.weight"][0]
        )
        self.words = nn.Embedding.from_pretrained(words)
        self.places = nn.Parameter(places)
        self.norm = nn.LayerNorm(words.shape[1], eps=1e-12)
        _load(self.norm, weights, "embeddings.LayerNorm")
        count = 1 + max(int(name.split(".")[2]) for name in weights if name.startswith("encoder.layer."))
        inner = len(weights["encoder.layer.0.intermediate.dense.bias"])
        self.layers = nn.ModuleList(Layer(words.shape[1], heads, inner) for _ in range(count))
        for i, layer in enumerate(self.layers):
            for mine, theirs in NAMES.items():
                _load(getattr(layer, mine), weights, f"encoder.layer.{i}.{theirs}")

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The mean over the tokens that the mask has, normalised."""
        mask = attention_mask.float()
        x = self.norm(self.words(input_ids) + self.places[: input_ids.shape[1]])
        for layer in self.layers:
            x = layer(x, (mask[:, None, None] - 1) * 1e4)
        return F.normalize((x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True), dim=-1)


NAMES = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "out": "attention.output.dense",
    "norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "norm2": "output.LayerNorm",
}


def _load(module: nn.Module, weights: Mapping[str, Tensor], name: str) -> None:
    module.load_state_dict({key: weights[f"{name}.{key}"] for key in ("weight", "bias")})


def export(weights: Path, path: Path) -> None:
    """The encoder in a safetensors file, as ONNX with dynamic batch and length."""
    from safetensors.torch import load_file

    ids = torch.ones(2, 7, dtype=torch.long)
    dims = {0: torch.export.Dim("batch", min=1, max=512), 1: torch.export.Dim("tokens", min=2, max=512)}
    torch.onnx.export(
        Encoder(load_file(weights)).eval(),
        (ids, ids.clone()),
        str(path),
        dynamo=True,
        opset_version=18,
        external_data=False,
        input_names=["input_ids", "attention_mask"],
        output_names=["sentence"],
        dynamic_shapes=(dims, dims),
    )
