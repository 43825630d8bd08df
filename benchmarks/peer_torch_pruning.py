"""`PYTHON -m benchmarks.peer_torch_pruning MODEL`: Torch-Pruning at half the width on the timm model of that name.

Nothing is said about the model but which layer makes its outputs (that one must not shrink), as pruneopt finds
out by itself. The pruned module must run and give outputs of the same shape; whether they are those of the masked
original is not checked.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import torch

# timm imports torchvision, whose binary may not load next to a CPU build of PyTorch: its ops are only declared.
_LIBRARY = torch.library.Library("torchvision", "FRAGMENT")
for _name in ("nms", "qnms"):
    with contextlib.suppress(RuntimeError):
        _LIBRARY.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def measure(name: str) -> dict[str, Any]:
    """Share of the parameters kept, and whether the module still runs."""
    import timm
    import torch_pruning as tp

    if not timm.is_model(name):
        return {"status": "not a timm model"}
    model = timm.create_model(name, pretrained=False).eval()
    batch = torch.randn(1, *model.pretrained_cfg["input_size"])
    with torch.no_grad():
        expected = model(batch).shape
    before = _parameters(model)
    pruner = tp.pruner.BasePruner(
        model,
        batch,
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=0.5,
        ignored_layers=_heads(model),
    )
    pruner.step()
    with torch.no_grad():
        found = model(batch).shape
    status = "ok" if found == expected else f"output is {tuple(found)}, not {tuple(expected)}"
    return {"status": status, "params_kept": _parameters(model) / before}


def _heads(model: torch.nn.Module) -> list[torch.nn.Module]:
    found = model.get_classifier()  # type: ignore[operator]
    return list(found) if isinstance(found, (tuple, list)) else [found]


def _parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]).name.split("__")[0])))
