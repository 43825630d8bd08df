"""Tensors as a file holds them, behind the constants of a graph: the bytes are kept, arrays are views."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx_graphsurgeon.ir.tensor import LazyValues

from pruneopt.arrays import Array
from pruneopt.errors import PruneoptError
from pruneopt.frontends.external import Bytes, External, is_external, locate

# Several elements share a byte; by name, because older onnx lacks some of them.
_PACKED_BITS = {
    TensorProto.DataType.Value(name): bits
    for name, bits in (
        ("UINT4", 4), ("INT4", 4), ("FLOAT4E2M1", 4), ("UINT2", 2), ("INT2", 2),
        ("FLOAT6E2M3", 6), ("FLOAT6E3M2", 6),
    )
    if name in set(TensorProto.DataType.keys())
}  # fmt: skip


class Stored(LazyValues):  # type: ignore[misc]
    """The values of a `gs.Constant` that nobody has edited: a header and the bytes as stored.

    `header` is the TensorProto without data (string tensors keep theirs), `source` the little-endian bytes.
    """

    def __init__(self, header: TensorProto, source: Bytes | External | None) -> None:
        self.header = header
        self.source = source
        self.shape = tuple(header.dims)
        self.dtype = helper.tensor_dtype_to_np_dtype(header.data_type)
        self.nbytes = byte_size(header.data_type, self.shape)
        self._unpacked: Array | None = None

    def raw(self) -> Bytes:
        """The bytes as stored, shape [nbytes]; empty for string tensors."""
        if self.source is None:
            return np.zeros(0, np.uint8)
        return self.source.view() if isinstance(self.source, External) else self.source

    def load(self) -> Array:
        """The values, read-only; a view of the stored bytes unless elements share bytes."""
        if self._unpacked is not None:
            return self._unpacked
        if self.source is not None and self.header.data_type not in _PACKED_BITS:
            return self.raw().view(self.dtype).reshape(self.shape)
        self._unpacked = _unpack(self.tensor)
        return self._unpacked

    @property
    def tensor(self) -> TensorProto:
        """The complete TensorProto, data inline."""
        tensor = TensorProto()
        tensor.CopyFrom(self.header)
        if self.source is not None:
            tensor.raw_data = self.raw().tobytes()
        return tensor


class Sparse(Stored):
    """A sparse initializer that nobody has edited."""

    def __init__(self, proto: onnx.SparseTensorProto) -> None:
        if is_external(proto.values) or is_external(proto.indices):
            raise PruneoptError(
                f"sparse weight '{proto.values.name}' lies in another file, which runtimes do not read "
                "either: store it in the model"
            )
        self.proto = onnx.SparseTensorProto()
        self.proto.CopyFrom(proto)
        header = _header(proto.values)
        del header.dims[:]
        header.dims.extend(proto.dims)
        super().__init__(header, None)

    def load(self) -> Array:
        """The dense values, read-only."""
        if self._unpacked is None:
            self._unpacked = _dense(self.proto, self.shape)
        return self._unpacked

    @property
    def tensor(self) -> TensorProto:
        """The dense TensorProto."""
        return numpy_helper.from_array(self.load(), self.header.name)


def byte_size(data_type: int, shape: tuple[int, ...]) -> int:
    """Bytes that a tensor takes in a file; 0 for strings, whose size is not fixed."""
    count = math.prod(shape)
    if data_type == TensorProto.STRING:
        return 0
    bits = _PACKED_BITS.get(data_type) or helper.tensor_dtype_to_np_dtype(data_type).itemsize * 8
    return (count * bits + 7) // 8


def stored(tensor: TensorProto, folder: Path | None, source: Bytes | External | None = None) -> Stored:
    """Takes the data of a TensorProto over, external data as a range of its file.

    `folder` is the model's folder, `source` the raw data where it is not in the proto. Raises PruneoptError
    naming the tensor when type, size or place is wrong.
    """
    header = _header(tensor)
    size = byte_size(header.data_type, tuple(header.dims))
    if header.data_type == TensorProto.STRING:
        return Stored(_with_strings(header, tensor), None)
    if is_external(tensor):
        return Stored(header, _external(tensor, folder, size))
    if source is None:
        source = _inline(tensor)
    found = source.length if isinstance(source, External) else len(source)
    if found != size:
        raise _damaged(tensor, f"{found} bytes", size)
    return Stored(header, source)


def from_array(array: Array, like: TensorProto | None, name: str) -> tuple[TensorProto, Bytes | None]:
    """Header and bytes of an edited constant; `like` gives doc string and metadata.

    Strings stay in the header.
    """
    header = TensorProto(name=name)
    if like is not None:
        header.doc_string = like.doc_string
        header.metadata_props.extend(like.metadata_props)
    if array.dtype.kind in "OSU":
        header.MergeFrom(numpy_helper.from_array(array.astype(object)))
        return header, None
    header.data_type = helper.np_dtype_to_tensor_dtype(array.dtype)
    header.dims.extend(array.shape)
    if header.data_type in _PACKED_BITS:
        packed = numpy_helper.from_array(np.ascontiguousarray(array)).raw_data
        return header, np.frombuffer(packed, np.uint8)
    return header, np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _header(tensor: TensorProto) -> TensorProto:
    if tensor.HasField("segment"):
        raise PruneoptError(f"weight '{tensor.name}' is stored in segments, which ONNX runtimes do not read")
    header = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    if tensor.HasField("doc_string"):
        header.doc_string = tensor.doc_string
    header.metadata_props.extend(tensor.metadata_props)
    try:
        helper.tensor_dtype_to_np_dtype(tensor.data_type)
    except (KeyError, TypeError, ValueError):
        raise PruneoptError(
            f"weight '{tensor.name}' has the element type {tensor.data_type}, which this version of onnx "
            "does not know: upgrade the onnx package"
        ) from None
    if any(size < 0 for size in tensor.dims):
        raise PruneoptError(f"weight '{tensor.name}' has a negative size: the model is damaged")
    return header


def _with_strings(header: TensorProto, tensor: TensorProto) -> TensorProto:
    count = math.prod(tensor.dims)
    if is_external(tensor) or len(tensor.string_data) != count:
        raise _damaged(tensor, f"{len(tensor.string_data)} strings", count)
    header.string_data.extend(tensor.string_data)
    return header


def _damaged(tensor: TensorProto, found: str, needed: int) -> PruneoptError:
    return PruneoptError(
        f"weight '{tensor.name}' holds {found}, but its shape {list(tensor.dims)} and type need {needed}: "
        "the model is damaged, export it again"
    )


def _external(tensor: TensorProto, folder: Path | None, size: int) -> External:
    if folder is None:
        raise PruneoptError(
            f"weight '{tensor.name}' lies in a file, but the folder of the model is not known: "
            "load the model from its path"
        )
    return locate(tensor, folder, size)


def _inline(tensor: TensorProto) -> Bytes:
    if tensor.HasField("raw_data"):
        return np.frombuffer(tensor.raw_data, np.uint8)
    field = helper.tensor_dtype_to_field(tensor.data_type)
    if field in ("float_data", "double_data"):
        # Packed repeated floats are little-endian on the wire: far faster than one Python float each.
        return _wire_tail(tensor, field)
    try:
        values = numpy_helper.to_array(tensor)
    except ValueError:
        return np.zeros(0, np.uint8)
    return np.frombuffer(numpy_helper.from_array(values).raw_data, np.uint8)


def _wire_tail(tensor: TensorProto, field: str) -> Bytes:
    values = getattr(tensor, field)
    alone = TensorProto()
    getattr(alone, field).MergeFrom(values)
    size = len(values) * (4 if field == "float_data" else 8)
    wire = alone.SerializeToString()
    return np.frombuffer(wire, np.uint8, size, len(wire) - size)


def _unpack(tensor: TensorProto) -> Array:
    try:
        array: Array = np.array(numpy_helper.to_array(tensor))
    except UnicodeDecodeError:
        array = np.array(list(tensor.string_data), dtype=object).reshape(tuple(tensor.dims))
    array.flags.writeable = False
    return array


def _dense(proto: onnx.SparseTensorProto, shape: tuple[int, ...]) -> Array:
    entries = numpy_helper.to_array(proto.values)
    indices = numpy_helper.to_array(proto.indices)
    flat = np.zeros(int(np.prod(shape, dtype=np.int64)), entries.dtype)
    # Indices are [entries] into the flat tensor, or [entries, rank].
    flat[indices if indices.ndim == 1 else np.ravel_multi_index(tuple(indices.T), shape)] = entries
    array: Array = flat.reshape(shape)
    array.flags.writeable = False
    return array
