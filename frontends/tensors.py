"""What is known of a tensor where it is: its element type, who reads it, and what it is a copy of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs


def element_type(tensor: gs.Variable) -> np.dtype[Any]:
    """The array type of a tensor; bfloat16 and float8 as `ml_dtypes`, for which gs keeps ONNX's number."""
    code = tensor.dtype
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(code) if isinstance(code, int) else code)


def readers(tensor: gs.Variable) -> Iterator[tuple[gs.Node, int]]:
    """(node, input) of all that read a tensor."""
    for node in {id(node): node for node in tensor.outputs}.values():
        yield from ((node, place) for place, each in enumerate(node.inputs) if each is tensor)


def origin_of(tensor: gs.Tensor) -> gs.Tensor:
    """The tensor of the same shape that `tensor` is a copy or a conversion of."""
    while tensor.inputs and tensor.inputs[0].op in ("Identity", "Cast", "DequantizeLinear"):
        tensor = tensor.inputs[0].inputs[0]
    return tensor
