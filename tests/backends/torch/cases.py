"""The node cases of `onnx.backend.test` as an oracle: which of them the PyTorch backend must pass."""

from __future__ import annotations

import re
import warnings
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

torch = pytest.importorskip("torch")

from pruneopt.backends.torch.values import DTYPES, to_tensor  # noqa: E402
from pruneopt.model import Model  # noqa: E402

# What PyTorch lacks: these ops are refused by name, see `test_ops_that_are_not_known_are_named`.
UNKNOWN = set(
    "NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss LinearAttention CausalConvWithState FlexAttention "
    "NonMaxSuppression DFT BitCast ImageDecoder TfIdfVectorizer StringSplit StringNormalizer SequenceMap StringConcat "
    "LabelEncoder Momentum Adam Adagrad RegexFullMatch TreeEnsemble STFT HannWindow HammingWindow BlackmanWindow "
    "Binarizer ArrayFeatureExtractor MelWeightMatrix Gradient".split()
)
EXCLUDED = re.compile(
    "bernoulli|training_dropout"  # random numbers of another generator
    "|bf16|fp16_expanded|causal_fp16"  # rounded at other places
    "|resize_downsample_scales_(linear|cubic)_align_corners"  # ONNX Runtime's reading of the standard is followed
    "|bitwise_not_3d"  # uint16 is widened
    "|no_saturate"  # PyTorch saturates float8
    "|scan_sum"  # Scan of opset 8
    "|spacetodepth_.*mode"  # a mode that opset 26 adds
)


@cache
def cases() -> list[Any]:
    """The node cases whose ops and types the backend knows."""
    from onnx.backend.test import loader

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # cases divide by zero on purpose
        found = loader.load_model_tests(kind="node")
    return [c for c in found if c.model and not EXCLUDED.search(c.name) and _is_known(c.model.graph)]


def _is_known(graph: onnx.GraphProto) -> bool:
    types = {info.type.tensor_type.elem_type for info in (*graph.input, *graph.output)}
    types |= {a.i for node in graph.node for a in node.attribute if a.name in ("to", "output_dtype", "dtype")}
    ops = {node.op_type for node in graph.node}
    quantised = ops & {"QuantizeLinear", "DequantizeLinear"}
    narrow = {TensorProto.INT4, TensorProto.UINT4}
    allowed = set(DTYPES) | {0} | (narrow if quantised else set())
    writes_narrow = "QuantizeLinear" in ops and bool(types & narrow)
    return not ops & UNKNOWN and types <= allowed and not writes_narrow


def passes(case: Any) -> None:
    """Assert that a case holds."""
    module = Model.from_proto(case.model).to_torch()
    for inputs, outputs in case.data_sets:
        found = module(*[_argument(value) for value in inputs])
        found = found if isinstance(found, tuple) else (found,)
        for expected, actual in zip(outputs, found, strict=True):
            _same(expected, actual, case)


def _argument(value: Any) -> Any:
    if isinstance(value, list):
        return [_argument(each) for each in value]
    return None if value is None else to_tensor(_array(value))


def _array(value: Any) -> Any:
    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else np.asarray(value)


def _same(expected: Any, actual: Any, case: Any) -> None:
    if isinstance(expected, list):
        for a, b in zip(expected, actual, strict=True):
            _same(a, b, case)
    elif expected is None:
        assert actual is None, case.name
    else:
        wide, found = _array(expected).astype(np.float64), actual.detach().double().numpy()
        assert wide.shape == found.shape, case.name
        close = np.isclose(found, wide, case.rtol, max(case.atol, 1e-6), equal_nan=True)
        assert close.all(), f"{case.name}: {np.abs(found - wide)[~close].max()}"
