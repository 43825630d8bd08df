"""A model for a runtime in the same process: the graph as a message, large weights beside it.

Nothing is serialised that the runtime can be handed in memory or map from a file by itself, so neither
size nor time depends on the weights.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto

from pruneopt.arrays import Array
from pruneopt.frontends.exporter import Exporter, inline
from pruneopt.frontends.external import External
from pruneopt.frontends.mapped import spilled_file
from pruneopt.frontends.weights import header_of, size, unedited
from pruneopt.model import Model, values

LARGE = 1 << 16  # bytes; runtimes read shapes and scalars from smaller ones while they load
PLAIN = {"float32", "float64", "float16", "int8", "uint8", "int32", "int64"}


@dataclass
class Handover:
    """What a runtime gets.

    Attributes:
        proto: the model; its large weights are marked as external.
        arrays: weights in memory, by name.
        root: the folder that locations of weights in files are relative to.
        in_files: bytes of weights that lie in files.
    """

    proto: onnx.ModelProto
    arrays: dict[str, Array] = field(default_factory=dict)
    root: str = os.sep
    in_files: int = 0

    @property
    def weights(self) -> int:
        """Bytes of large weights, wherever they are."""
        return self.in_files + sum(array.nbytes for array in self.arrays.values())


def for_runtime(model: Model) -> Handover:
    """The model without its large weights, and where those are."""
    made = Handover(onnx.ModelProto())

    def place(constant: gs.Constant, proto: onnx.GraphProto, main: bool) -> None:
        nbytes = size(constant)
        if not main or nbytes < LARGE or str(constant.dtype) not in PLAIN:
            inline(constant, proto, main)
            return
        path, offset = _file(constant) or (None, 0)
        if path is None:
            made.arrays[constant.name] = np.ascontiguousarray(values(constant))
        else:
            made.in_files += nbytes
        location = "memory" if path is None else os.path.relpath(path.resolve(), made.root)
        _mark(proto.initializer.add(), constant, location, offset, nbytes)

    made.proto.CopyFrom(model.header)
    Exporter(model.graph, place, model.header.ir_version).graph(model.graph, made.proto.graph)
    return made


def _file(constant: gs.Constant) -> tuple[Path, int] | None:
    """File and offset of a constant's bytes, where they lie in one as they are."""
    if os.name != "posix":  # one root for all files
        return None
    kept = unedited(constant)
    if kept is not None:
        return (kept.source.path, kept.source.offset) if isinstance(kept.source, External) else None
    path = spilled_file(constant.values)
    return None if path is None else (path, 0)


def _mark(tensor: TensorProto, constant: gs.Constant, location: str, offset: int, nbytes: int) -> None:
    tensor.CopyFrom(header_of(constant))
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", nbytes)):
        tensor.external_data.add(key=key, value=str(value))
