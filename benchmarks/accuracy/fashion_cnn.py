"""A residual network of widths 16, 32 and 64 on Fashion-MNIST."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.accuracy.fashion import fashion
from benchmarks.accuracy.task import Task

if TYPE_CHECKING:
    from torch import Tensor, nn

EPOCHS = 6


def task(cache: Path) -> Task:
    """Trained on the 60,000 images, calibrated on 512 of them, judged on the 10,000 others."""
    return fashion("fashion_cnn", cache, build, EPOCHS)


def build() -> nn.Module:
    """Stem, six residual blocks, pooling, classifier (He et al. 2016)."""
    import torch
    from torch import nn

    torch.manual_seed(0)

    class Block(nn.Module):
        """Two convolutions beside a shortcut."""

        def __init__(self, narrow: int, wide: int, stride: int) -> None:
            super().__init__()
            self.inner = nn.Sequential(*_conv(narrow, wide, stride), nn.ReLU(), *_conv(wide, wide, 1))
            project = stride > 1 or narrow != wide
            self.skip = nn.Sequential(*_conv(narrow, wide, stride, 1)) if project else nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            """x of shape [batch, narrow, height, width]."""
            return (self.inner(x) + self.skip(x)).relu()

    blocks = [(16, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1)]
    return nn.Sequential(
        *_conv(1, 16, 1),
        nn.ReLU(),
        *(Block(*sizes) for sizes in blocks),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def _conv(narrow: int, wide: int, stride: int, kernel: int = 3) -> tuple[nn.Module, nn.Module]:
    from torch import nn

    conv = nn.Conv2d(narrow, wide, kernel, stride, kernel // 2, bias=False)
    return conv, nn.BatchNorm2d(wide)
