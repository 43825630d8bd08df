"""Lets timm be imported where torchvision's binary does not load, as next to PyTorch for CPUs."""

from __future__ import annotations

import contextlib
from typing import Any

_DECLARED: list[Any] = []  # torch forgets the ops of a library that nobody holds


def declare() -> None:
    """Declare the ops that torchvision registers when imported; they are never called."""
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        with contextlib.suppress(RuntimeError):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
    _DECLARED.append(library)
