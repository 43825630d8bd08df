"""Values between NumPy, ONNX and PyTorch, and the two kinds of tensors a module computes with.

What no input and no weight reaches (sizes, positions, masks made from them) lives on the CPU, wherever the module
is: reading an integer there costs nothing. It moves to a device when it meets a tensor that is there.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import torch
from onnx import TensorProto
from torch import Tensor

from pruneopt.arrays import Array
from pruneopt.errors import PruneoptError

Setting = Any  # a tensor, or a Python number or (nested) list of them where it was constant

# PyTorch computes with few unsigned types, so these are widened: values stay, wrap-around does not. Types of 4 bits
# are widened where they are stored, but nothing is converted to them.
DTYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.BOOL: torch.bool,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.UINT8: torch.uint8,
    TensorProto.UINT16: torch.int32,
    TensorProto.UINT32: torch.int64,
    TensorProto.UINT64: torch.int64,
    TensorProto.FLOAT8E4M3FN: torch.float8_e4m3fn,
    TensorProto.FLOAT8E4M3FNUZ: torch.float8_e4m3fnuz,
    TensorProto.FLOAT8E5M2: torch.float8_e5m2,
    TensorProto.FLOAT8E5M2FNUZ: torch.float8_e5m2fnuz,
}
_FOREIGN: dict[np.dtype[Any], tuple[Any, torch.dtype]] = {
    np.dtype(ml_dtypes.bfloat16): (np.int16, torch.bfloat16),
    np.dtype(ml_dtypes.float8_e4m3fn): (np.uint8, torch.float8_e4m3fn),
    np.dtype(ml_dtypes.float8_e4m3fnuz): (np.uint8, torch.float8_e4m3fnuz),
    np.dtype(ml_dtypes.float8_e5m2): (np.uint8, torch.float8_e5m2),
    np.dtype(ml_dtypes.float8_e5m2fnuz): (np.uint8, torch.float8_e5m2fnuz),
}
_WIDENED = {"uint16": np.int32, "uint32": np.int64, "uint64": np.int64, "int4": np.int8, "uint4": np.uint8}


def dtype_of(kind: Any) -> torch.dtype:
    """The element type for an ONNX number or a NumPy dtype. Raises PruneoptError where PyTorch has none."""
    code = kind if isinstance(kind, int) else onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    if code not in DTYPES:
        raise PruneoptError(f"PyTorch has no element type {TensorProto.DataType.Name(code)}")
    return DTYPES[code]


def to_tensor(array: Array) -> Tensor:
    """A tensor with a copy of the array's values. Raises PruneoptError for types that PyTorch lacks."""
    array = np.asarray(array)
    if array.dtype in _FOREIGN:
        bits, dtype = _FOREIGN[array.dtype]
        return torch.from_numpy(np.array(array).view(bits)).view(dtype)
    if array.dtype.kind in "OSU" or (array.dtype.kind == "V" and array.dtype.name not in _WIDENED):
        raise PruneoptError(f"PyTorch has no element type {array.dtype}")
    return torch.from_numpy(np.array(array, _WIDENED.get(array.dtype.name, array.dtype), order="C"))


def to_array(tensor: Tensor, dtype: Any = None) -> Array:
    """An array with the values of the tensor, converted to `dtype` where one is given."""
    tensor = tensor.detach().cpu().contiguous()
    foreign = {kind: (bits, np_dtype) for np_dtype, (bits, kind) in _FOREIGN.items()}
    if tensor.dtype in foreign:
        bits, np_dtype = foreign[tensor.dtype]
        plain = tensor.view(torch.int16 if bits is np.int16 else torch.uint8)
        array = plain.numpy().view(bits).view(np_dtype)
    else:
        array = tensor.numpy()
    result: Array = array if dtype is None or array.dtype == dtype else array.astype(dtype)
    return result


def ints(value: Setting) -> list[int]:
    """The integers of a setting."""
    if isinstance(value, Tensor):
        value = value.reshape(-1).tolist()
    return [int(v) for v in value] if isinstance(value, (list, tuple)) else [int(value)]


def floats(value: Setting) -> list[float]:
    """The numbers of a setting."""
    if isinstance(value, Tensor):
        value = value.reshape(-1).tolist()
    return [float(v) for v in value] if isinstance(value, (list, tuple)) else [float(value)]


def number(value: Setting) -> Any:
    """The one number of a setting."""
    if isinstance(value, Tensor):
        return value.reshape(-1)[0].item()
    while isinstance(value, (list, tuple)):
        value = value[0]
    return value


def together(*tensors: Any) -> list[Any]:
    """The tensors on one device: those on the CPU move to where another one is."""
    device = next((t.device for t in tensors if isinstance(t, Tensor) and t.device.type != "cpu"), None)
    if device is None:
        return list(tensors)
    return [t.to(device) if isinstance(t, Tensor) and t.device.type == "cpu" else t for t in tensors]


def alike(*tensors: Any) -> list[Any]:
    """The tensors on one device and of one floating type; after `module.half()` some may be wider than others."""
    placed = together(*tensors)
    kinds = {t.dtype for t in placed if isinstance(t, Tensor)}
    if len(kinds) < 2:
        return placed
    wide = next(iter(kinds))
    for kind in kinds:
        wide = torch.promote_types(wide, kind)
    return [t.to(wide) if isinstance(t, Tensor) else t for t in placed]


def constant(values: Any, dtype: str) -> Tensor:
    """A small constant, made anew so that it stays on the CPU and out of the state; `dtype` is torch's name of it."""
    return torch.tensor(values, dtype=getattr(torch, dtype))
