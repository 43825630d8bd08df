"""Types of graph inputs, outputs and values: TypeProto to `gs.Variable` and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import helper

Shape = list[int | str | None]


def shape_of(info: onnx.ValueInfoProto) -> Shape | None:
    """Sizes of a tensor: a number, a name, or None where nothing is said; None for unknown rank."""
    kind = info.type.WhichOneof("value")
    if kind not in ("tensor_type", "sparse_tensor_type"):
        return None
    tensor = getattr(info.type, kind)
    if not tensor.HasField("shape"):
        return None
    return [getattr(dim, dim.WhichOneof("value") or "", None) for dim in tensor.shape.dim]


def dtype_of(info: onnx.ValueInfoProto) -> Any:
    """Element type as a numpy dtype; None where it is not a tensor or nothing is said."""
    kind = info.type.WhichOneof("value")
    if kind not in ("tensor_type", "sparse_tensor_type"):
        return None
    element = getattr(info.type, kind).elem_type
    return helper.tensor_dtype_to_np_dtype(element) if element else None


def variable(name: str, info: onnx.ValueInfoProto | None) -> gs.Variable:
    """A graphsurgeon variable with what `info` says about it."""
    if info is None:
        return gs.Variable(name)
    kind = info.type.WhichOneof("value") or "tensor_type"
    return gs.Variable(name, dtype=dtype_of(info), shape=shape_of(info), type=kind)


def value_info(tensor: gs.Tensor, recorded: onnx.ValueInfoProto | None) -> onnx.ValueInfoProto:
    """The signature entry of a tensor: as recorded, but for what has been changed since."""
    info = onnx.ValueInfoProto()
    if recorded is not None:
        info.CopyFrom(recorded)
    info.name = tensor.name
    if info.type.WhichOneof("value") in (None, "tensor_type"):
        _update_dtype(info, tensor)
        _update_shape(info, tensor)
    return info


def _update_dtype(info: onnx.ValueInfoProto, tensor: gs.Tensor) -> None:
    if tensor.dtype is None:
        return
    if isinstance(tensor.dtype, int):
        info.type.tensor_type.elem_type = tensor.dtype
    elif np.dtype(tensor.dtype) != dtype_of(info):
        info.type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))


def _update_shape(info: onnx.ValueInfoProto, tensor: gs.Tensor) -> None:
    old, new = shape_of(info), tensor.shape
    if new is None or (old is not None and list(new) == old):
        return
    shape = info.type.tensor_type.shape
    shape.SetInParent()
    if old is None or len(old) != len(new):
        del shape.dim[:]
        for _ in new:
            shape.dim.add()
    for dim, size in zip(shape.dim, new, strict=True):
        if size is None:
            dim.ClearField("value")
        elif isinstance(size, str):
            dim.dim_param = size
        else:
            dim.dim_value = int(size)
