"""`PYTHON -m benchmarks.peer_torch_pruning MODEL`: Torch-Pruning halves timm's model of that name.

Nothing is said about the model but which layer makes its outputs (that one must not shrink). The pruned
module must run and give outputs of the same shape; whether these are the masked original's is not checked.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.torchvision_ops import declare


def measure(name: str) -> dict[str, Any]:
    """Share of the parameters kept, and whether the module still runs."""
    declare()
    import timm  # type: ignore[import-not-found]
    import torch_pruning as tp  # type: ignore[import-not-found]

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
