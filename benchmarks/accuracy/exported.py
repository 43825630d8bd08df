"""A PyTorch module as an ONNX file whose batch is dynamic."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

MOST = 4096  # rows of a batch


def export_batched(net: nn.Module, shape: tuple[int, ...], path: Path, name: str, output: str) -> None:
    """Input `name` [batch, *shape], one output; weights inside the file."""
    import torch

    torch.onnx.export(
        net,
        (torch.zeros(2, *shape),),
        str(path),
        dynamo=True,
        opset_version=18,
        external_data=False,
        input_names=[name],
        output_names=[output],
        dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=MOST)},),
    )
