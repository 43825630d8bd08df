"""A vision transformer on Fashion-MNIST: DeiT-Tiny's shape at half its width and a third of its depth.

Three convolutions make 16 patches (Xiao et al. 2021) where DeiT has one: fewer epochs, and cheaper ones, suffice."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.accuracy.fashion import fashion
from benchmarks.accuracy.task import Task

if TYPE_CHECKING:
    from torch import Tensor, nn

EPOCHS = 8
WIDTH, HEADS, DEPTH = 96, 3, 4


def task(cache: Path) -> Task:
    """Trained on the 60,000 images, calibrated on 512 of them, judged on the 10,000 others."""
    return fashion("fashion_vit", cache, build, EPOCHS)


def build() -> nn.Module:
    """Patches and places, pre-norm blocks, the mean over the patches, classifier (Touvron et al. 2021)."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    torch.manual_seed(0)

    stem: list[nn.Module] = []
    for narrow, wide in ((1, 32), (32, 64)):
        stem += [nn.Conv2d(narrow, wide, 3, 2, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU()]
    stem.append(nn.Conv2d(64, WIDTH, 3, 2, 1))

    class Attention(nn.Module):
        """Self-attention of several heads."""

        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            """x of shape [batch, tokens, width]."""
            q, k, v = self.qkv(x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
            scores = q @ k.transpose(-1, -2) * (WIDTH / HEADS) ** -0.5
            return self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))

    class Block(nn.Module):
        """Attention and feed-forward, each behind a norm."""

        def __init__(self) -> None:
            super().__init__()
            self.norm, self.attention = nn.LayerNorm(WIDTH), Attention()
            self.norm2, self.up = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 4 * WIDTH)
            self.down = nn.Linear(4 * WIDTH, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            """x of shape [batch, tokens, width]."""
            x = x + self.attention(self.norm(x))
            return x + self.down(F.gelu(self.up(self.norm2(x))))

    class Net(nn.Module):
        """Images [batch, 1, 28, 28] to logits [batch, 10]."""

        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Sequential(*stem)
            self.places = nn.Parameter(0.02 * torch.randn(16, WIDTH))
            self.blocks = nn.Sequential(*(Block() for _ in range(DEPTH)))
            self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 10)

        def forward(self, image: Tensor) -> Tensor:
            """Logits."""
            x = self.patches(image).flatten(2).transpose(1, 2) + self.places
            return self.head(self.norm(self.blocks(x)).mean(1))

    return Net()
