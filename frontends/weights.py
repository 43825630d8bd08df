"""The data of constants on their way out: as stored, or as somebody has edited them."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto, helper

from pruneopt.arrays import Array
from pruneopt.frontends import extras
from pruneopt.frontends.external import Bytes, External
from pruneopt.frontends.stored import Sparse, Stored, byte_size, from_array


def size(constant: gs.Constant) -> int:
    """Bytes of a constant's data in a file; 0 for strings."""
    kept = unedited(constant)
    if kept is not None:
        return int(kept.nbytes)
    array = _array(constant)
    if array.dtype.kind in "OSU":
        return 0
    return byte_size(helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)


def payload(constant: gs.Constant) -> tuple[TensorProto, Bytes | External | None]:
    """Header and data of a constant as they go into a file; strings stay in the header."""
    kept = unedited(constant)
    if kept is None:
        known = extras.of_constant(constant)
        return from_array(_array(constant), known.stored.header if known else None, constant.name)
    return header_of(constant), kept.source


def header_of(constant: gs.Constant) -> TensorProto:
    """The TensorProto of a constant without its data."""
    kept = unedited(constant)
    if kept is None:
        return payload(constant)[0]
    header = TensorProto()
    header.CopyFrom(kept.header)
    header.name = constant.name
    return header


def fill(tensor: TensorProto, constant: gs.Constant) -> TensorProto:
    """Makes `tensor` the complete TensorProto of a constant."""
    header, data = payload(constant)
    tensor.CopyFrom(header)
    if data is not None:
        tensor.raw_data = (data.view() if isinstance(data, External) else data).tobytes()
    return tensor


def unedited(constant: gs.Constant) -> Stored | None:
    """The stored form of a constant whose values nobody has replaced."""
    values = constant._values
    known = extras.of_constant(constant)
    if isinstance(values, Stored):
        return values
    if known is not None and values is known.stored._unpacked:
        return known.stored
    return None


def _array(constant: gs.Constant) -> Array:
    array = np.asarray(constant.values)
    if constant._export_dtype is None:
        return array
    kind = constant._export_dtype
    return array.astype(helper.tensor_dtype_to_np_dtype(kind) if isinstance(kind, int) else kind)


def sparse(constant: gs.Constant) -> onnx.SparseTensorProto | None:
    """The SparseTensorProto of a constant that came sparse and was not edited."""
    kept = unedited(constant)
    if not isinstance(kept, Sparse):
        return None
    proto = onnx.SparseTensorProto()
    proto.CopyFrom(kept.proto)
    proto.values.name = constant.name
    return proto
