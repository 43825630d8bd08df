# mypy: disallow-subclassing-any=False
"""Ten small modules in the manner of timm and transformers, with an example input and what varies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional
Module: Any = nn.Module


@dataclass(frozen=True)
class Example:
    """Arguments of a module, and which of their dimensions vary."""

    inputs: tuple[Any, ...]
    dynamic: tuple[dict[int, Any], ...]


def images(size: int = 16) -> Example:
    """A batch of images."""
    return Example((torch.randn(2, 3, size, size),), ({0: torch.export.Dim("batch")},))


def tokens(length: int = 7) -> Example:
    """A batch of token numbers; batch and length vary."""
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
    return Example((torch.randint(0, 50, (2, length)),), (sizes,))


class Mlp(Module):
    """Linear layers and a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(12, 32), nn.Linear(32, 12)])
        self.head = nn.Linear(12, 5)

    def forward(self, x: Any) -> Any:
        """`b c -> b classes`."""
        return self.head(x + self.blocks[1](F.relu(self.blocks[0](x))))


class Attention(Module):
    """Queries, keys and values as one map, or as three with shared heads and rotated positions."""

    def __init__(self, width: int, heads: int, shared: int = 1, rotates: bool = False) -> None:
        super().__init__()
        self.heads, self.shared, self.rotates = heads, shared, rotates
        each = width // heads
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, each * heads // shared, bias=not rotates)
        self.v = nn.Linear(width, each * heads // shared, bias=not rotates)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Any, causal: bool = False) -> Any:
        """`b s c -> b s c`."""
        b, s, c = x.shape
        each = c // self.heads
        q, k, v = (m(x).reshape(b, s, -1, each).transpose(1, 2) for m in (self.q, self.k, self.v))
        if self.rotates:
            angle = torch.arange(s)[:, None] / 100.0 ** (torch.arange(0, each, 2) / each)
            cos, sin = angle.cos(), angle.sin()
            q, k = (self.turned(t, cos, sin) for t in (q, k))
        k, v = k.repeat_interleave(self.shared, 1), v.repeat_interleave(self.shared, 1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return self.proj(y.transpose(1, 2).reshape(b, s, c))

    @staticmethod
    def turned(x: Any, cos: Any, sin: Any) -> Any:
        """Rotated halves."""
        a, b = x.chunk(2, -1)
        return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


class Rms(Module):
    """Root-mean-square norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x: Any) -> Any:
        """x over its root mean square."""
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self.weight


class Layer(Module):
    """A layer of an encoder, or of a Llama-like decoder (gated, rotated, shared heads), with scaled branches."""

    def __init__(self, width: int, gated: bool = False, scaled: bool = False) -> None:
        super().__init__()
        self.gated = gated
        self.norm1, self.norm2 = (Rms(width) if gated else nn.LayerNorm(width) for _ in range(2))
        self.attn = Attention(width, 4, 2 if gated else 1, gated)
        self.fc1 = nn.Linear(width, 2 * width, bias=not gated)
        self.fc2 = nn.Linear(2 * width, width, bias=not gated)
        self.gate = nn.Linear(width, 2 * width, bias=False) if gated else None
        self.gamma = nn.Parameter(torch.rand(width)) if scaled else None

    def forward(self, x: Any) -> Any:
        """`b s c -> b s c`."""
        x = x + self.attn(self.norm1(x), self.gated)
        h = self.norm2(x)
        h = F.silu(self.gate(h)) * self.fc1(h) if self.gate is not None else F.gelu(self.fc1(h))
        h = self.fc2(h)
        return x + (h if self.gamma is None else self.gamma * h)


class Language(Module):
    """Embedded tokens through layers to words; the embedding may be the head too."""

    def __init__(self, gated: bool = False, tied: bool = False, places: bool = True) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 32)
        self.places = nn.Embedding(64, 32) if places else None
        self.layers = nn.ModuleList([Layer(32, gated) for _ in range(2)])
        self.norm = Rms(32) if gated else nn.LayerNorm(32)
        self.head = nn.Linear(32, 50, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, ids: Any) -> Any:
        """`b s -> b s words`."""
        x = self.embed(ids)
        if self.places is not None:
            x = x + self.places(torch.arange(ids.shape[1]))
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


class VisionTransformer(Module):
    """Patches, a class token and learned positions."""

    def __init__(self, scaled: bool = False) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 32, 4, 4)
        self.cls_token = nn.Parameter(torch.randn(1, 1, 32))
        self.pos_embed = nn.Parameter(torch.randn(1, 17, 32))
        self.blocks = nn.ModuleList([Layer(32, scaled=scaled) for _ in range(2)])
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, x: Any) -> Any:
        """`b 3 h w -> b classes`."""
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class Residual(Module):
    """Two normalised convolutions beside the identity."""

    def __init__(self, width: int, groups: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, 2 * width, 1, bias=False), nn.BatchNorm2d(2 * width)
        self.conv2 = nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(2 * width)
        self.conv3 = nn.Conv2d(2 * width, width, 1)

    def forward(self, x: Any) -> Any:
        """`b c h w -> b c h w`."""
        return x + self.conv3(F.relu6(self.bn2(self.conv2(F.relu6(self.bn1(self.conv1(x)))))))


def convolutional(groups: int = 1) -> Any:
    """A stem, residual blocks and a head; batch statistics are not those of the start."""
    module = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.SiLU(), Residual(16, groups), nn.MaxPool2d(2),
        Residual(16, groups), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    )  # fmt: skip
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_mean, -0.5, 0.5)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
            nn.init.uniform_(part.weight, 0.5, 1.5)
    return module.eval()


class ConvNext(Module):
    """Depthwise convolutions, channels last, scaled branches."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 24, 4, 4), nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.norm, self.gamma = nn.LayerNorm(24), nn.Parameter(torch.rand(24))
        self.fc1, self.fc2, self.head = nn.Linear(24, 96), nn.Linear(96, 24), nn.Linear(24, 10)

    def forward(self, x: Any) -> Any:
        """`b 3 h w -> b classes`."""
        x = self.stem(x)
        h = self.fc2(F.gelu(self.fc1(self.norm(self.conv(x).permute(0, 2, 3, 1)))))
        return self.head((x + (self.gamma * h).permute(0, 3, 1, 2)).mean((2, 3)))


class Recurrent(Module):
    """A bidirectional LSTM over embedded tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.lstm = nn.LSTM(16, 24, batch_first=True, bidirectional=True)
        self.fc, self.head = nn.Linear(48, 64), nn.Linear(64, 10)

    def forward(self, ids: Any) -> Any:
        """`b s -> b classes`."""
        return self.head(F.relu(self.fc(self.lstm(self.embed(ids))[0].mean(1))))


MODULES: dict[str, Callable[[], tuple[Any, Example]]] = {
    "mlp": lambda: (Mlp().eval(), Example((torch.randn(3, 12),), ({0: torch.export.Dim("batch")},))),
    "encoder": lambda: (Language().eval(), tokens()),
    "tied": lambda: (Language(tied=True).eval(), tokens()),
    "llama": lambda: (Language(gated=True, places=False).eval(), tokens()),
    "vit": lambda: (VisionTransformer().eval(), images()),
    "scaled vit": lambda: (VisionTransformer(scaled=True).eval(), images()),
    "convnet": lambda: (convolutional(), images()),
    "depthwise": lambda: (convolutional(32), images()),
    "convnext": lambda: (ConvNext().eval(), images()),
    "lstm": lambda: (Recurrent().eval(), tokens()),
}
