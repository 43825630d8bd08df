"""A model for a runtime in the same process: the graph as a message, large weights beside it as arrays.

Nothing is serialised that the runtime can be handed in memory, so neither size nor time depends on the
weights, and mapped weights stay mapped.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto

from pruneopt.frontends.exporter import Exporter, inline
from pruneopt.frontends.weights import header_of, size
from pruneopt.model import Model, values

LARGE = 1 << 16  # bytes; runtimes read shapes and scalars from smaller ones while they load
PLAIN = {"float32", "float64", "float16", "int8", "uint8", "int32", "int64"}


def for_runtime(model: Model) -> tuple[onnx.ModelProto, dict[str, npt.NDArray[Any]]]:
    """The model without its large weights, and those by name; they are marked as external in the proto."""
    weights: dict[str, npt.NDArray[Any]] = {}

    def place(constant: gs.Constant, proto: onnx.GraphProto, main: bool) -> None:
        if not main or size(constant) < LARGE or str(constant.dtype) not in PLAIN:
            inline(constant, proto, main)
            return
        weights[constant.name] = np.ascontiguousarray(values(constant))
        tensor = proto.initializer.add()
        tensor.CopyFrom(header_of(constant))
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "memory"), ("offset", 0), ("length", weights[constant.name].nbytes)):
            tensor.external_data.add(key=key, value=str(value))

    proto = onnx.ModelProto()
    proto.CopyFrom(model.header)
    Exporter(model.graph, place, model.header.ir_version).graph(model.graph, proto.graph)
    return proto, weights
