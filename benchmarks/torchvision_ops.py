"""Lets timm be imported where torchvision's binary does not load, as next to PyTorch for CPUs."""

from __future__ import annotations

import contextlib
import sys
from importlib import import_module
from typing import Any

_DECLARED: list[Any] = []  # torch forgets the ops of a library that nobody holds


def declare() -> None:
    """Declare the ops that torchvision registers when imported; they are never called."""
    import torch

    try:
        import_module("torchvision")
        return
    except (ImportError, RuntimeError):  # where its binary is there, but for another PyTorch
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        with contextlib.suppress(RuntimeError):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
    _DECLARED.append(library)
