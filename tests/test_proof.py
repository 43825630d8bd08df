"""The proof sees through heads and branches that are initialised with zeros."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import pruneopt as po
from pruneopt.analysis.groups import find_groups
from pruneopt.analysis.infer import analyse
from pruneopt.backends.ort import OnnxRuntime
from pruneopt.errors import PruneoptError
from pruneopt.model import Model, constants
from pruneopt.passes.context import Context
from pruneopt.passes.inside import hidden
from pruneopt.passes.proof import prove
from pruneopt.passes.rewriting.masked import Masked
from pruneopt.passes.rewriting.shrink import shrink
from tests.halved import drawn, halved

PLAIN = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 3] x) => (float[N, 2] y) {
    h = MatMul (x, w) r = Relu (h) z = MatMul (r, v) y = MatMul (z, head) }"""
BRANCH = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 3] x) => (float[N, 3] y) {
    h = MatMul (x, w) r = Relu (h) z = MatMul (r, v) s = Mul (z, scale) y = Add (x, s) }"""
SIZES = {"w": (3, 8), "v": (8, 4), "head": (4, 2)}


def model(text: str, **zero: tuple[int, ...]) -> Model:
    """The model with random weights, but `zero` ones of these shapes."""
    rng = np.random.default_rng(0)
    proto = onnx.parser.parse_model(text)
    arrays = {name: rng.standard_normal(size) for name, size in SIZES.items() if name not in zero}
    arrays |= {name: np.zeros(size) for name, size in zero.items()}
    used = {name for node in proto.graph.node for name in node.input}
    proto.graph.initializer.extend(
        numpy_helper.from_array(a.astype(np.float32), name) for name, a in arrays.items() if name in used
    )
    return Model.from_proto(proto)


def spoil(small: Model) -> None:
    """Another half than was asked for."""
    weight = next(c for c in constants(small.graph) if c.name == "w")
    weight.values = weight.values[:, ::-1].copy()


CASES = {
    "head of zeros": model(PLAIN, head=(4, 2)),
    "branch scaled by zeros": model(BRANCH, v=(8, 3), scale=(3,)),
    "matrix of zeros": model(BRANCH.replace("s = Mul (z, scale) y = Add (x, s)", "y = Add (x, z)"), v=(8, 3)),
}


@pytest.mark.parametrize("name", CASES)
def test_what_zeros_hide_is_compared_inside(name: str) -> None:
    small, claim, context = halved(CASES[name], drawn(5, 7))
    proof = prove(small, claim, context, 1e-5)
    assert proof.inside_checked > 0
    spoil(small)
    with pytest.raises(PruneoptError, match="differs from the masked original"):
        prove(small, claim, context, 1e-5)


def test_where_nothing_is_hidden_outputs_are_enough() -> None:
    small, claim, context = halved(model(PLAIN), drawn(5, 7))
    assert hidden(small.graph) == []
    assert prove(small, claim, context, 1e-5).inside_checked == 0


BILINEAR = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 3] x) => (float[N, 2] y) {
    a = MatMul (x, w) b = MatMul (x, u) y = Einsum <equation = "bi,oij,bj->bo"> (a, t, b) }"""


def test_two_sums_of_one_node_are_masked_each() -> None:
    proto, rng = onnx.parser.parse_model(BILINEAR), np.random.default_rng(0)
    for name, shape in {"w": (3, 8), "u": (3, 6), "t": (2, 8, 6)}.items():
        array = rng.standard_normal(shape).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    whole = Model.from_proto(proto)
    result = po.prune(whole, passes="width{ratio=0.5}", timed=False)
    assert result.report["equivalence"]["atoms_checked"] == 2


def cancelling(delta: float) -> tuple[Model, Masked, Context]:
    """A product whose 1,024 kept terms cancel but for `delta`, so that their order tells in the outputs."""
    rng = np.random.default_rng(0)
    w, v, keep = rng.standard_normal((3, 2048)), rng.standard_normal((2048, 2)), np.arange(2048) % 2 == 0
    kept = w[:, keep]
    left = np.linalg.solve(kept @ kept.T, kept @ v[keep]) - delta / 2048 * rng.standard_normal((3, 2))
    v[keep] -= kept.T @ left
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 3] x) => (float[N, 2] y) { h = MatMul (x, w) y = MatMul (h, v) }"""
    )
    for name, array in (("w", w), ("v", v)):
        proto.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    whole = Model.from_proto(proto)
    context = Context(OnnxRuntime(), [{"x": rng.standard_normal((n, 3)).astype(np.float32)} for n in (5, 7)])
    analysis = analyse(whole, context.observation(whole))
    masks = {next(g.atom for g in find_groups(analysis) if g.size == 2048): keep}
    return shrink(analysis, masks), Masked(analysis, masks), context


def test_rounding_that_a_net_magnifies_is_no_error() -> None:
    small, claim, context = cancelling(0.1)
    proof = prove(small, claim, context)
    assert 1e-4 < proof.max_rel_error < proof.rounding
    spoil(small)
    with pytest.raises(PruneoptError, match="differs from the masked original"):
        prove(small, claim, context)


def test_what_rounding_could_make_anything_of_is_refused() -> None:
    small, claim, context = cancelling(0.001)
    with pytest.raises(PruneoptError, match="no rewrite of it can be proved"):
        prove(small, claim, context)
