"""A net of two maps whose least important neurons are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pruneopt.analysis.groups import Group, find_groups
from pruneopt.analysis.infer import Analysis, analyse
from pruneopt.api import make_context
from pruneopt.model import Model


def chain(scale: tuple[float, ...] = (4, 0.5, 2, 0.1, 1, 0.2, 3, 0.05)) -> Model:
    """y = (x A) B, whose neuron i matters as much as `scale[i]` says."""
    rng = np.random.default_rng(1)
    a = np.linalg.qr(rng.standard_normal((8, 8)))[0].astype(np.float32)
    b = (np.linalg.qr(rng.standard_normal((8, 8)))[0] * np.array(scale)[:, None]).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "A"], ["h"]), helper.make_node("MatMul", ["h", "B"], ["y"])]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 8]) for n in "xy"]
    weights = [numpy_helper.from_array(a, "A"), numpy_helper.from_array(b, "B")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(proto)
    return Model.from_proto(proto)


def studied(model: Model) -> tuple[Analysis, list[Group]]:
    """A model's analysis and groups."""
    analysis = analyse(model, make_context(model).observation(model))
    return analysis, find_groups(analysis)


def rows(count: int = 64) -> list[dict[str, np.ndarray[Any, Any]]]:
    """One batch for it."""
    return [{"x": np.random.default_rng(2).standard_normal((count, 8)).astype(np.float32)}]
