"""Attention as a single op is written out before tokens are followed through it."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

import pruneopt as po
from pruneopt.model import Model
from tests.models import Builder

WIDTH, HEADS, TOKENS = 32, 4, 16


def encoder(biased: bool, added: bool) -> onnx.ModelProto:
    """Two layers of ONNX Runtime's own attention, a feed-forward part each, a class token that is read."""
    b = Builder(seed=8)
    x = "x"
    for _ in range(2):
        q, k, v = (b.node("MatMul", x, b.weight(WIDTH, WIDTH)) for _ in range(3))
        bias = b.weight(3 * WIDTH) if biased else ""
        inputs = [q, k, v, bias, "", b.weight(1, HEADS, TOKENS, TOKENS)] if added else [q, k, v, bias]
        mixed = b.node("MultiHeadAttention", *inputs, domain="com.microsoft", num_heads=HEADS)
        x = b.node("Add", x, b.node("MatMul", mixed, b.weight(WIDTH, WIDTH)))
        inner = b.node("Relu", b.node("MatMul", x, b.weight(WIDTH, 64)))
        x = b.node("Add", x, b.node("MatMul", inner, b.weight(64, WIDTH)))
    first = b.node("Gather", x, b.value(0), axis=1)
    b.node("MatMul", first, b.weight(WIDTH, 5), outputs=["y"])
    proto = b.model({"x": ["b", TOKENS, WIDTH]}, {"y": ["b", 5]})
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return proto


@pytest.mark.parametrize(("biased", "added"), [(False, False), (True, False), (True, True)])
def test_tokens_go_behind_the_runtimes_own_attention(biased: bool, added: bool) -> None:
    proto = encoder(biased, added)
    result = po.prune(Model.from_proto(proto), passes="length{left=0.5}", timed=False)
    entry = next(p for p in result.report["passes"] if p["pass"] == "length")
    assert entry["sites"][0]["tokens"] == [TOKENS]
    assert result.report["equivalence"]["max_rel_error"] < 1e-5
    x = np.random.default_rng(0).standard_normal((2, TOKENS, WIDTH)).astype(np.float32)
    x[:, 2::2] = x[
        :, 1:-1:2
    ]  # what is there twice is merged without loss, as far as nothing is added for its place
    whole, short = (
        ort.InferenceSession(p.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        for p in (proto, result.model.proto())
    )
    assert added or np.abs(whole - short).max() < 0.1 * np.abs(whole).max()
