"""Half precision to float32: the same graph for looking at and for proving, where rounding would hide errors.

Runtimes also refuse half-precision ops on some processors; the widened model runs everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping

import ml_dtypes
import numpy as np
import onnx
import onnx_graphsurgeon as gs

from pruneopt.arrays import Array
from pruneopt.frontends.runtime import for_runtime
from pruneopt.model import Model, constants, values

HALVES = {np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)}
CODES = {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "stash_type")


def has_halves(model: Model) -> bool:
    """Whether a weight, an input or an output is float16 or bfloat16."""
    return any(
        _is_half(t.dtype) for t in (*model.graph.inputs, *model.graph.outputs, *constants(model.graph))
    )


def widen(model: Model) -> Model:
    """A copy in which every float16 and bfloat16 tensor is float32, inputs and outputs included.

    The model itself where nothing is of half precision.
    """
    if not has_halves(model):
        return model
    wide = model.copy()
    for graph in (wide.graph, *wide.graph.subgraphs(recursive=True)):
        for node in graph.nodes:
            _widen_attributes(node)
            for tensor in node.outputs:
                _widen_variable(tensor)
        for tensor in (*graph.inputs, *graph.outputs):
            _widen_variable(tensor)
    for constant in constants(wide.graph):
        if _is_half(constant.dtype):
            constant.values = values(constant).astype(np.float32)
    return wide


def widen_feeds(feeds: Mapping[str, Array]) -> dict[str, Array]:
    """The same feeds with float32 in place of half precision."""
    return {
        name: array.astype(np.float32) if array.dtype in HALVES else array for name, array in feeds.items()
    }


def narrow(model: Model, known: Mapping[str, Array]) -> dict[str, Array]:
    """Values of the widened model's tensors in the types that `model` has, by name; without those of unknown type."""
    if not has_halves(model):
        return dict(known)
    graph = onnx.shape_inference.infer_shapes(for_runtime(model).proto).graph
    kinds = {t.name: t.type.tensor_type.elem_type for t in (*graph.value_info, *graph.output)}
    found = {}
    for name, value in known.items():
        if value.dtype.kind != "f":
            found[name] = value
        elif kinds.get(name):
            found[name] = value.astype(onnx.helper.tensor_dtype_to_np_dtype(kinds[name]))
    return found


def _is_half(dtype: object) -> bool:
    return dtype in CODES if isinstance(dtype, int) else dtype is not None and np.dtype(dtype) in HALVES  # type: ignore[call-overload]


def _widen_variable(tensor: gs.Tensor) -> None:
    if isinstance(tensor, gs.Variable) and _is_half(tensor.dtype):
        tensor.dtype = np.dtype(np.float32)


def _widen_attributes(node: gs.Node) -> None:
    for name, value in node.attrs.items():
        if name in TYPE_ATTRIBUTES and value in CODES:
            node.attrs[name] = int(onnx.TensorProto.FLOAT)
        elif isinstance(value, gs.Constant) and _is_half(value.dtype):
            node.attrs[name] = gs.Constant(value.name, values(value).astype(np.float32))
