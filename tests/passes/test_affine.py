"""Scales and shifts go into the ops beside them, whatever they are written as; what runtimes fuse stays whole."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from pruneopt import api
from pruneopt.passes.base import Outcome
from pruneopt.passes.pipeline import Pipeline
from pruneopt.passes.simplify import Simplify
from tests import models

RNG = np.random.default_rng(3)
SHAPES = {
    "w": (8, 4, 3, 3), "v": (8, 4, 3, 3), "p": (6, 8, 1, 1), "q": (6, 8, 1, 1), "d": (8, 1, 3, 3), "t": (8, 4, 3, 3),
    "g": (8, 5), "h": (5, 8), "five": (5,), "bias": (8,), "c": (1, 8, 1, 1), "e": (8, 1, 1), "s": (), "one": (1,),
    "rows": (1, 1, 6, 1), "single": (1, 4, 3, 3),
}  # fmt: skip


def simplified(nodes: str, rank: int = 4, kind: str = "float", opset: int = 17) -> Outcome:
    """What becomes of x -> y; a constant of SHAPES for each name used, numbers in [0.5, 1.5]."""
    shape = "[n, 4, 6, 6]" if rank == 4 else "[n, 8]"
    text = (
        f'<ir_version: 8, opset_import: ["": {opset}]> g ({kind}{shape} x) => ({kind}[a{", b" * (rank - 1)}] y)'
        f"<{kind} zero = {{0}}, {kind} three = {{3}}, {kind} six = {{6}}> {{ {nodes} }}"
    )
    proto = onnx.parser.parse_model(text.replace("[a, b, b, b]", "[a, b, c, d]"))
    used = {name for node in proto.graph.node for name in node.input}
    dtype = onnx.helper.tensor_dtype_to_np_dtype(proto.graph.input[0].type.tensor_type.elem_type)
    for name in SHAPES:
        if name in used:
            array = RNG.uniform(0.5, 1.5, SHAPES[name]).astype(dtype)
            proto.graph.initializer.append(numpy_helper.from_array(array, name))
    return ran(proto)


def ran(proto: onnx.ModelProto) -> Outcome:
    model = models.loaded(proto)
    return Pipeline([Simplify()]).run(model, api.make_context(model))


def ops(outcome: Outcome) -> dict[str, int]:
    """How many nodes of each op are left; the rewrite is proved."""
    entry = outcome.entry["passes"][0]
    assert entry.get("equivalence", {"max_rel_error": 0})["max_rel_error"] < 1e-5
    return dict(Counter(n.op for n in outcome.model.graph.nodes))


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["Mul", "Div", "Add", "Sub"]), st.sampled_from(["c", "e", "s", "one"]), st.booleans()
    ),
    min_size=1,
    max_size=5,
)


def chained(steps: list[tuple[str, str, bool]], start: str, end: str) -> str:
    made, at = [], start
    for i, (op, constant, first) in enumerate(steps):
        out = end if i == len(steps) - 1 else f"{start}_{i}"
        inputs = (constant, at) if first and op in ("Mul", "Add") else (at, constant)
        made.append(f"{out} = {op}({', '.join(inputs)})")
        at = out
    return " ".join(made)


@settings(max_examples=15, deadline=None)
@given(STEPS)
def test_any_chain_goes_into_the_convolution_before(steps: list[tuple[str, str, bool]]) -> None:
    assert ops(simplified(f"a = Conv(x, w, bias) {chained(steps, 'a', 'y')}")) == {"Conv": 1}
    assert ops(simplified(f"a = Conv(x, w) {chained(steps, 'a', 'y')}")) == {"Conv": 1}


@settings(max_examples=15, deadline=None)
@given(STEPS)
def test_or_into_those_behind_but_for_a_shift_before_padding(steps: list[tuple[str, str, bool]]) -> None:
    chain = f"a = Conv(x, w) r = Relu(a) {chained(steps, 'r', 'b')}"
    assert ops(simplified(f"{chain} y = Conv(b, p)")) == {"Conv": 2, "Relu": 1}
    padded = ops(simplified(f"{chain} y = Conv <group = 8, pads = [1, 1, 1, 1]> (b, d)"))
    left = {op: count for op, count in padded.items() if op not in ("Conv", "Relu")}
    shifts = {op for op, *_ in steps if op in ("Add", "Sub")}
    assert sum(left.values()) <= 1  # none where shifts cancel out
    assert set(left) <= ({"Add", *shifts} if shifts else set())


def test_several_readers_share_a_scale() -> None:
    chain = "a = Conv(x, w) r = Relu(a) b = Mul(r, c)"
    assert "Mul" not in ops(simplified(f"{chain} k = Conv(b, p) z = Conv(b, q) y = Add(k, z)"))
    shared = ops(simplified(f"{chain} k = Conv(b, p) z = Conv <pads = [0, 0, 0, 0]> (b, p) y = Add(k, z)"))
    assert shared["Mul"] == 1  # both read one weight, which would have to be copied
    others = ops(simplified(f"{chain} k = Conv(b, p) y = Concat <axis = 1> (b, k)"))
    assert others["Mul"] == 1  # not all that reads it takes a scale


def test_other_linear_ops_take_what_follows() -> None:
    assert ops(simplified("a = Gemm(x, g) b = Mul(a, five) y = Add(b, s)", rank=2)) == {"Gemm": 1}
    assert ops(simplified("a = Gemm <transB = 1> (x, h) b = Sub(a, five) y = Div(b, five)", rank=2)) == {
        "Gemm": 1
    }
    text = "a = Conv(x, w) b = ConvTranspose <group = 2> (a, t) k = Mul(b, c) y = Sub(k, e)"
    assert ops(simplified(text)) == {"Conv": 1, "ConvTranspose": 1}


def test_what_runtimes_know_as_a_whole_is_left() -> None:
    gelu = "f = Div(a, s) e1 = Erf(f) o = Add(e1, one) m = Mul(a, o) b = Mul(m, zero)"
    left = ops(simplified(f"a = Conv(x, w) {gelu.replace('zero', 'three')} y = Conv(b, p)"))
    assert left == {"Conv": 2, "Div": 1, "Erf": 1, "Add": 1, "Mul": 2}


def test_half_precision_has_no_digits_to_spare() -> None:
    assert ops(simplified("a = Conv(x, w) y = Mul(a, s)", kind="float16")) == {"Conv": 1, "Mul": 1}


def test_numbers_along_other_dimensions_stay() -> None:
    assert ops(simplified("a = Conv <pads = [1, 1, 1, 1]> (x, w) y = Mul(a, rows)")) == {"Conv": 1, "Mul": 1}


def test_a_chain_behind_one_that_was_shortened_is_shortened_too() -> None:
    first = "r = Relu(x) a = Mul(r, s) b = Mul(a, one) z = Tanh(b)"
    sums = ops(simplified(f"{first} k = Add(b, s) l = Sub(k, one) m = Add(l, s) y = Add(m, z)"))
    assert sums == {"Relu": 1, "Mul": 1, "Tanh": 1, "Add": 2}
    scale = ops(simplified(f"{first} k = Abs(b) l = Mul(k, s) m = Conv(l, w) n = Conv(z, v) y = Add(m, n)"))
    assert scale == {"Relu": 1, "Mul": 1, "Tanh": 1, "Abs": 1, "Conv": 2, "Add": 1}


def test_one_channel_that_a_product_makes_many_of_stays_one() -> None:
    text = "a = Conv(x, single) r = Relu(a) b = Mul(r, c) y = Conv(b, p)"
    assert ops(simplified(text)) == {"Conv": 2, "Relu": 1, "Mul": 1}
    assert ops(simplified("a = Conv(x, single) y = Mul(a, c)")) == {"Conv": 1, "Mul": 1}


@pytest.mark.parametrize("opset", [9, 17])
@pytest.mark.parametrize("swish", [
    "k = Clip(u) m = Mul(r, k) b = Div(m, six)",
    "k = Clip(u) l = Div(k, six) b = Mul(r, l)",
])  # fmt: skip
def test_a_hard_swish_that_is_spelt_out_is_a_gate_and_a_product(swish: str, opset: int) -> None:
    clip = "Clip <min = 0.0, max = 6.0> (u)" if opset == 9 else "Clip(u, zero, six)"
    chain = f"r = Conv(x, w) u = Add(r, three) {swish.replace('Clip(u)', clip)} y = Conv(b, p)"
    assert ops(simplified(chain, opset=opset)) == {"Conv": 2, "HardSigmoid": 1, "Mul": 1}


def test_other_clips_stay() -> None:
    for clip, factor in (("Clip(u, three, six)", "six"), ("Clip(u, zero, six)", "rows")):
        found = ops(
            simplified(
                f"a = Conv <pads = [1, 1, 1, 1]> (x, w) r = Relu(a) u = Add(r, three) k = {clip} y = Mul(k, {factor})"
            )
        )
        assert "HardSigmoid" not in found
