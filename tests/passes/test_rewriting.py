"""Witnesses in computed shapes."""

from __future__ import annotations

import numpy as np
import onnx

import pruneopt as po
from pruneopt import api
from pruneopt.analysis.groups import find_groups
from pruneopt.analysis.infer import analyse
from pruneopt.backends.session import Session
from pruneopt.model import Model
from pruneopt.passes.proof import prove
from pruneopt.passes.rewriting.masked import Masked
from pruneopt.passes.rewriting.shrink import shrink
from pruneopt.passes.simplify import Simplify
from pruneopt.passes.width import best
from tests import models


def without_half_of_four(model: Model) -> float:
    """The error of a model that loses two of its four heads."""
    context = api.make_context(model)
    simple = Simplify().run(model, context).model
    analysis = analyse(simple, context.observation(simple))
    (group,) = (g for g in find_groups(analysis) if g.size == 4)
    masks = {group.atom: best(np.arange(4.0), 2)}
    return prove(shrink(analysis, masks), Masked(analysis, masks), context).max_rel_error


def test_an_inferred_entry_of_a_computed_target_stays_inferred() -> None:
    """Heads merge into the batch by [-1, length, size], the length computed; half of the heads go."""
    b = models.Builder()
    shape = b.node("Shape", "x")
    length = b.node("Slice", shape, b.value([1]), b.value([2]))
    batch = b.node("Slice", shape, b.value([0]), b.value([1]))
    heads = b.node("Concat", batch, length, b.value([4]), b.value([8]), axis=0)
    y = b.node("Reshape", b.node("MatMul", "x", b.weight(16, 32)), heads)
    y = b.node("Transpose", y, perm=[0, 2, 1, 3])
    merged = b.node("Reshape", y, b.node("Concat", b.value([-1]), length, b.value([8]), axis=0))
    y = b.node(
        "Reshape", b.node("Relu", merged), b.node("Concat", batch, b.value([4]), length, b.value([8]), axis=0)
    )
    y = b.node("Reshape", b.node("Transpose", y, perm=[0, 2, 1, 3]), b.value([0, 0, -1]))
    b.node("MatMul", y, b.weight(32, 5), outputs=["y"])
    assert without_half_of_four(models.loaded(b.model({"x": ["n", "s", 16]}, {"y": ["n", "s", 5]}))) < 1e-5


RELATIVE = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N, S, 16] x) => (float[N, S, 5] y) {
    h = MatMul (x, w)
    parts = Reshape (h, heads)
    q = Transpose <perm = [0, 2, 1, 3]> (parts)
    k = Concat <axis = 2> (q, q)
    t = Transpose <perm = [0, 1, 3, 2]> (k)
    scores = MatMul (q, t)
    whole = Shape (scores)
    front = Slice (whole, zero, two)
    length = Slice (whole, two, three)
    wide = Slice (whole, three, four)
    turned = Concat <axis = 0> (front, wide, length)
    a = Reshape (scores, turned)
    b = Slice (a, one, most, two)
    narrow = Sub (wide, one)
    back = Concat <axis = 0> (front, length, narrow)
    shifted = Reshape (b, back)
    relu = Relu (shifted)
    each = ReduceMean <axes = [3], keepdims = 0> (relu)
    rows = Transpose <perm = [0, 2, 1]> (each)
    y = MatMul (rows, v) }"""


def test_positions_are_shifted_where_nothing_tells_their_number() -> None:
    """XLNet turns its scores, drops one and turns them back: 2 s - 1 is no dimension of what goes in."""
    proto = onnx.parser.parse_model(RELATIVE)
    rng = np.random.default_rng(0)
    arrays = {n: np.array([i]) for i, n in enumerate(("zero", "one", "two", "three", "four"))}
    arrays |= {"most": np.array([1 << 40]), "heads": np.array([0, 0, 4, 8])}
    arrays |= {n: rng.standard_normal(size, np.float32) for n, size in (("w", (16, 32)), ("v", (4, 5)))}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(a, name) for name, a in arrays.items())
    assert without_half_of_four(models.loaded(proto)) < 1e-5


RESIZED = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 3, H, W] x) => (float[N, 2, A, B] y) {
    wide = Conv <pads = [1, 1, 1, 1]> (x, w)
    low = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (wide)
    whole = Shape (wide)
    head = Slice (whole, zero, two)
    tail = Slice (whole, two, four)
    sizes = Concat <axis = 0> (head, tail)
    high = Resize <mode = "nearest"> (low, , , sizes)
    sum = Add (wide, high)
    y = Conv (sum, v) }"""


def test_an_image_is_resized_to_a_size_that_is_dynamic() -> None:
    """Its channels shrink, its sides are still what the other branch has."""
    proto = onnx.parser.parse_model(RESIZED)
    rng = np.random.default_rng(0)
    arrays = {name: np.array([n]) for name, n in (("zero", 0), ("two", 2), ("four", 4))}
    arrays |= {"w": rng.standard_normal((16, 3, 3, 3), np.float32)}
    arrays |= {"v": rng.standard_normal((2, 16, 1, 1), np.float32)}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(a, name) for name, a in arrays.items())
    result = po.prune(models.loaded(proto), passes="width{ratio=0.5}", timed=False)
    assert result.report["groups"][0]["kept"] == 8
    sides = Session(result.model).run({"x": np.ones((1, 3, 36, 52), np.float32)})["y"].shape
    assert sides == (1, 2, 36, 52)
