"""Caches of a fixed size: every step is what the whole model makes of the tokens that are left, counted anew."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto

import pruneopt as po
from pruneopt.errors import PruneoptError, UsageError
from pruneopt.model import Model
from pruneopt.passes.spec import parse_passes
from tests import models
from tests.models import Builder

Array = npt.NDArray[Any]
WIDTH, HEADS, SIZE, VOCABULARY = 16, 2, 8, 30


def decoder(turned: bool = True, learned: bool = False) -> onnx.ModelProto:
    """One layer over a cache: keys turned by their place, or learned places added to the tokens, or neither."""
    b = Builder(seed=6)
    past = b.node("Gather", b.node("Shape", "past.key"), b.value(2), axis=0)
    new = b.node("Gather", b.node("Shape", "ids"), b.value(1), axis=0)
    place = b.node("Add", b.node("Range", b.value(0), new, b.value(1)), past)
    x = b.node("Gather", b.weight(VOCABULARY, WIDTH), "ids")
    if learned:
        x = b.node("Add", x, b.node("Gather", b.weight(500, WIDTH), place))
    q, k, v = (_heads(b, b.node("MatMul", x, b.weight(WIDTH, WIDTH))) for _ in range(3))
    if turned:
        angle = b.node("Cast", b.node("Unsqueeze", place, b.value([1])), to=TensorProto.FLOAT)
        angle = b.node("Mul", angle, b.value(0.3 ** np.arange(SIZE // 2), np.float32))
        angle = b.node("Concat", angle, angle, axis=-1)
        cos, sin = b.node("Cos", angle), b.node("Sin", angle)
        q, k = (_turned(b, each, cos, sin) for each in (q, k))
    k = b.node("Concat", "past.key", k, axis=2, outputs=["present.key"])
    v = b.node("Concat", "past.value", v, axis=2, outputs=["present.value"])
    scores = b.node("MatMul", q, b.node("Transpose", k, perm=[0, 1, 3, 2]))
    all_ = b.node("Range", b.value(0), b.node("Add", past, new), b.value(1))
    later = b.node("Greater", all_, b.node("Unsqueeze", place, b.value([1])))
    scores = b.node("Where", later, b.value(-1e9, np.float32), scores)
    out = b.node("Transpose", b.node("MatMul", b.node("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3])
    out = b.node("Reshape", out, b.value([0, 0, WIDTH]))
    b.node("MatMul", out, b.weight(WIDTH, VOCABULARY), outputs=["logits"])
    cache = ["b", HEADS, "past", SIZE]
    grown = ["b", HEADS, "past + s", SIZE]
    proto = b.model(
        {"ids": ["b", "s"], "past.key": cache, "past.value": cache},
        {"logits": ["b", "s", VOCABULARY], "present.key": grown, "present.value": grown},
    )
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    return proto


def _heads(b: Builder, x: str) -> str:
    return b.node("Transpose", b.node("Reshape", x, b.value([0, 0, HEADS, SIZE])), perm=[0, 2, 1, 3])


def _turned(b: Builder, x: str, cos: str, sin: str) -> str:
    first, second = b.node("Split", x, outputs=[f"{x}_a", f"{x}_b"], axis=-1), f"{x}_b"
    other = b.node("Concat", b.node("Neg", second), first, axis=-1)
    return b.node("Add", b.node("Mul", x, cos), b.node("Mul", other, sin))


class Steps:
    """A decoder that is fed step by step."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        self.key = self.value = np.zeros((1, HEADS, 0, SIZE), np.float32)

    def step(self, *ids: int) -> Array:
        """Logits of the last token."""
        feeds = {"ids": np.array([ids]), "past.key": self.key, "past.value": self.value}
        logits, self.key, self.value = self.session.run(None, feeds)
        last: Array = logits[0, -1]
        return last


def small(proto: onnx.ModelProto, spec: str = "length{context=8, sinks=2}") -> po.Result:
    return po.prune(Model.from_proto(proto), passes=spec, timed=False)


@pytest.mark.parametrize("turned", [True, False])
def test_every_step_is_that_of_the_tokens_that_are_left(turned: bool) -> None:
    proto = decoder(turned)
    short = Steps(small(proto).model.proto())
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, 24).tolist()
    for at, token in enumerate(tokens):
        found = short.step(token)
        before = tokens[:at] if at <= 8 else [*tokens[:2], *tokens[at - 6 : at]]
        expected = Steps(proto).step(*before, token)  # one layer: what is left does not know what went
        np.testing.assert_allclose(found, expected, atol=1e-4)
        assert short.key.shape[2] == min(at + 1, 8)


def test_several_tokens_at_once_leave_the_last_ones() -> None:
    proto = decoder()
    short = Steps(small(proto).model.proto())
    tokens = np.random.default_rng(1).integers(0, VOCABULARY, 21).tolist()
    np.testing.assert_allclose(short.step(*tokens[:20]), Steps(proto).step(*tokens[:20]), atol=1e-5)
    expected = Steps(proto).step(*tokens[:2], *tokens[14:20], tokens[20])
    np.testing.assert_allclose(short.step(tokens[20]), expected, atol=1e-4)


def test_the_report_says_what_is_handed_on() -> None:
    entry = next(p for p in small(decoder()).report["passes"] if p["pass"] == "length")
    assert entry["moved"] == ["present.key"]
    assert entry["signature"] == [f"present.{kind} holds at most 8 tokens" for kind in ("key", "value")]


@pytest.mark.parametrize(
    ("proto", "why"),
    [
        (decoder(learned=True), "puts places counted from the start"),
        (models.convnet(), "no input of this model comes back"),
    ],
)
def test_what_has_no_cache_or_counts_from_the_start_is_refused(proto: onnx.ModelProto, why: str) -> None:
    with pytest.raises(PruneoptError, match=why):
        small(proto)


@pytest.mark.parametrize("spec", ["length{context=4, sinks=4}", "length{context=8, left=0.5}"])
def test_what_makes_no_sense_is_refused(spec: str) -> None:
    with pytest.raises(UsageError):
        parse_passes(spec)
