"""What fuzzing has found, each as small as it gets."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from pruneopt.analysis.axes import Axis
from pruneopt.analysis.masks import Mask
from tests.fuzz.checks import Subject, check_masks, subject
from tests.fuzz.graphs import Case

HEAD = '<ir_version: 8, opset_import: ["" : 17]>'


def case(text: str, shape: tuple[int, ...], **weights: tuple[int, ...]) -> Case:
    """A model with one input `x` of batch sizes 2, 3 and 4, and random weights of these shapes."""
    rng = np.random.default_rng(0)
    proto = onnx.parser.parse_model(f"{HEAD}\n{text}")
    arrays = {name: rng.standard_normal(size).astype(np.float32) for name, size in weights.items()}
    proto.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in arrays.items())
    one, two, three = ({"x": rng.standard_normal((n, *shape)).astype(np.float32)} for n in (2, 3, 4))
    return Case(proto, (one, two, three))


def masked(ready: Subject, size: int) -> dict[Axis, Mask]:
    """Only the last entries of every free atom of that size are kept."""
    keep = np.arange(size) >= size - 2
    masks = {axis: keep for axis in ready.atoms if axis.size[0] == size}
    assert masks, f"nothing of size {size} is free"
    return masks


def check_size(found: Case, size: int) -> None:
    ready = subject(found)
    check_masks(found, ready, masked(ready, size))


def test_a_slice_that_ends_at_a_place_counted_from_the_end_keeps_its_piece() -> None:
    text = """g (float[N, 3] x) => (float[N, 2] y)
        <int64[1] zero = {0}, int64[1] back = {-5}, int64[1] one = {1}> {
        h = MatMul (x, w)
        left = Slice (h, zero, back, one)
        right = Slice (h, back_start, far, one)
        a = MatMul (left, v) b = MatMul (right, u) y = Add (a, b) }"""
    text = text.replace(
        "int64[1] one", "int64[1] back_start = {-5}, int64[1] far = {2147483647}, int64[1] one"
    )
    check_size(case(text, (3,), w=(3, 9), v=(4, 2), u=(5, 2)), 5)


@pytest.mark.parametrize("start", [1, -11])
def test_every_second_entry_stays_every_second_entry(start: int) -> None:
    text = """g (float[N, 3] x) => (float[N, 2] y)
        <int64[1] start = {START}, int64[1] end = {12}, int64[1] one = {1}, int64[1] two = {2}> {
        h = MatMul (x, w)
        odd = Slice (h, start, end, one, two)
        y = MatMul (odd, v) }"""
    check_size(case(text.replace("START", str(start)), (3,), w=(3, 12), v=(6, 2)), 6)


def test_nameless_identities_that_read_the_same_tensor_go() -> None:
    text = """g (float[N, 3] x) => (float[N, 2] y) {
        h = MatMul (x, w) a = Identity (h) b = Identity (a) c = Identity (h) d = Dropout (b)
        s = Add (c, d) y = MatMul (s, v) }"""
    ready = subject(case(text, (3,), w=(3, 6), v=(6, 2)))
    assert [n.op for n in ready.simple.graph.nodes] == ["MatMul", "Add", "MatMul"]


def test_time_steps_of_a_recurrent_layer_stay() -> None:
    text = """g (float[N, 3, 7] x) => (float[N, 2] y) <int64[1] one = {1}, int64[2] flat = {-1, 28}> {
        mixed = MatMul (w, x) t = Transpose <perm = [1, 0, 2]> (mixed)
        h = RNN <hidden_size = 4> (t, i, r) s = Squeeze (h, one)
        b = Transpose <perm = [1, 0, 2]> (s) m = ReduceMean <axes = [1], keepdims = 0> (b)
        y = MatMul (m, v) }"""
    found = case(text, (3, 7), w=(6, 3), i=(1, 4, 7), r=(1, 4, 4), v=(4, 2))
    assert not [axis for axis in subject(found).atoms if axis.size[0] == 6]


def test_what_a_body_says_of_its_shapes_does_not_go_stale() -> None:
    text = """g (float[N, 3] x) => (float[N, 2] y) <float zero = {0}> {
        h = MatMul (x, w) m = ReduceMean <keepdims = 0> (h) flag = Greater (m, zero)
        c = If (flag) <then_branch = a () => (float[N, 6] p) { p = Relu (h) },
                       else_branch = b () => (float[N, 6] q) { q = Neg (h) }>
        y = MatMul (c, v) }"""
    check_size(case(text, (3,), w=(3, 6), v=(6, 2)), 6)
