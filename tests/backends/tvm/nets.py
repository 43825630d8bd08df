"""Small networks with zeros, for the tests of kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from pruneopt.model import Model

RNG = np.random.default_rng(3)


def sparse(shape: tuple[int, ...], block: int, density: float) -> Any:
    """A weight [outputs, ...] of which blocks of outputs share their zeros."""
    kept = RNG.random((-(-shape[0] // block), *shape[1:])) < density
    return np.asarray(RNG.standard_normal(shape) * np.repeat(kept, block, 0)[: shape[0]], np.float32)


def model(text: str, **weights: Any) -> Model:
    """A model in ONNX's text, with initializers."""
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> g {text}')
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(w, name) for name, w in weights.items())
    return Model.from_proto(proto)


def perceptron() -> Model:
    """Rows of any number: blocks of 16, then zeros anywhere, bias and activation in between."""
    return model(
        "(float[b, t, 96] x) => (float[b, t, 40] y) "
        "{ h = MatMul(x, v) i = Add(h, c) j = Relu(i) k = MatMul(j, w) y = Add(k, d) }",
        v=np.ascontiguousarray(sparse((128, 96), 16, 0.2).T),
        w=np.ascontiguousarray(sparse((40, 128), 1, 0.2).T),
        c=RNG.standard_normal(128).astype(np.float32),
        d=RNG.standard_normal(40).astype(np.float32),
    )


def convolutional() -> Model:
    """Images of any number: pointwise, strided and grouped."""
    return model(
        "(float[b, 16, 14, 14] x) => (float[b, 48, 7, 7] y) { h = Conv(x, p) i = Clip(h, lo, hi) "
        "y = Conv <group = 2, pads = [1, 1, 1, 1], strides = [2, 2]> (i, q, e) }",
        p=sparse((64, 16, 1, 1), 1, 0.3),
        q=sparse((48, 32, 3, 3), 1, 0.2),
        e=RNG.standard_normal(48).astype(np.float32),
        lo=np.float32(0),
        hi=np.float32(6),
    )


def separable() -> Model:
    """A depthwise convolution without zeros between two pointwise ones, and one that no sparse layer is beside."""
    return model(
        "(float[b, 8, 15, 14] x) => (float[b, 32, 8, 7] y) { g = Conv <group = 8, pads = [1, 1, 1, 1]> (x, a) "
        "e = Exp(g) h = Conv(e, p) i = Clip(h, lo, hi) j = Conv <group = 64, pads = [1, 1, 1, 1], "
        "strides = [2, 2]> (i, d, c) k = Clip(j, lo, hi) y = Conv(k, q) }",
        a=RNG.standard_normal((8, 1, 3, 3)).astype(np.float32) / 9,
        p=sparse((64, 8, 1, 1), 16, 0.3),
        d=RNG.standard_normal((64, 1, 3, 3)).astype(np.float32),
        q=sparse((32, 64, 1, 1), 1, 0.2),
        c=RNG.standard_normal(64).astype(np.float32),
        lo=np.float32(0),
        hi=np.float32(6),
    )


def twice() -> Model:
    """Two layers of one shape that share a kernel, but not how many non-zeros they have."""
    return model(
        "(float[n, 64] x) => (float[n, 64] y) { h = MatMul(x, v) y = MatMul(h, w) }",
        v=sparse((64, 64), 1, 0.2),
        w=sparse((64, 64), 1, 0.2),
    )
