"""Near ties fall either way: the proof tells the rewritten model what the masked original has decided."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from pruneopt.errors import PruneoptError
from pruneopt.model import Model, constants, values
from pruneopt.passes import proof
from pruneopt.passes.claims import Claim, Unchanged
from pruneopt.passes.context import Context
from pruneopt.passes.rewriting.masked import Masked
from tests.halved import drawn, halved

Rewrite = Callable[[Model], tuple[Model, Claim, Context]]
ROWS = 64
HEAD = '<ir_version: 8, opset_import: ["" : 17]> g (float[N, 3] x, float[N, 2] u) => (float[N, 2] y) '
SCORES = "h = MatMul (x, w) r = Relu (h) z = MatMul (r, v) "
SORTED = HEAD + "{" + SCORES + "s = Squeeze (z, one) k = Shape (s) t, i = TopK (s, k) y = Gather (u, i) }"
PARITY = HEAD + "{" + SCORES + "b = Mul (z, big) f = Floor (b) m = Mod <fmod = 1> (f, two) y = Mul (u, m) }"
CONSTANTS = {
    "w": np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32),
    "v": np.random.default_rng(1).standard_normal((8, 1)).astype(np.float32),
    "one": np.array([1]),
    "big": np.float32(1e6),
    "two": np.float32(2),
}


def model(text: str) -> Model:
    proto = onnx.parser.parse_model(text)
    used = {name for node in proto.graph.node for name in node.input}
    arrays = {name: array for name, array in CONSTANTS.items() if name in used}
    proto.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in arrays.items())
    return Model.from_proto(proto)


def rounded(small: Model, by: float) -> None:
    """Another weight in the last digits, as if sums had been taken in another order."""
    weight = next(c for c in constants(small.graph) if c.name == "v")
    noise = np.random.default_rng(2).uniform(-by, by, weight.shape)
    weight.values = (values(weight) * (1 + noise)).astype(np.float32)


def pruned(whole: Model) -> tuple[Model, Masked, Context]:
    """Half of the eight hidden neurons removed; the rows of the input are all but the same."""
    rng = np.random.default_rng(3)
    rows = (rng.standard_normal((1, 3)) + 1e-6 * rng.standard_normal((ROWS, 3))).astype(np.float32)
    feeds = [{"x": rows[:n], "u": rng.standard_normal((n, 2)).astype(np.float32)} for n in (ROWS, ROWS - 1)]
    return halved(whole, feeds)


def reordered(whole: Model) -> tuple[Model, Unchanged, Context]:
    """The hidden neurons in another order."""
    _, _, context = pruned(whole)
    order, small = np.random.default_rng(4).permutation(8), whole.copy()
    w, v = (next(c for c in constants(small.graph) if c.name == name) for name in "wv")
    w.values, v.values = values(w)[:, order].copy(), values(v)[order].copy()
    return small, Unchanged(whole, context.feeds), context


@pytest.mark.parametrize("rewrite", [pruned, reordered])
@pytest.mark.parametrize("text", [SORTED, PARITY])
def test_rounding_may_turn_a_decision(text: str, rewrite: Rewrite, monkeypatch: pytest.MonkeyPatch) -> None:
    small, claim, context = rewrite(model(text))
    rounded(small, 1e-6)
    assert proof.prove(small, claim, context).max_rel_error <= 1e-5
    monkeypatch.setattr(proof, "_decided_alike", lambda pair, points, error: error)
    with pytest.raises(PruneoptError):
        proof.prove(small, claim, context)


@pytest.mark.parametrize("rewrite", [pruned, reordered])
@pytest.mark.parametrize("text", [SORTED, PARITY])
def test_what_decides_must_be_the_same(text: str, rewrite: Rewrite) -> None:
    small, claim, context = rewrite(model(text))
    rounded(small, 1e-2)
    with pytest.raises(PruneoptError, match="differs from the masked original"):
        proof.prove(small, claim, context)


def test_what_follows_a_decision_must_be_the_same() -> None:
    small, claim, context = pruned(
        model(SORTED.replace("y = Gather (u, i)", "n = Neg (u) y = Gather (n, i)"))
    )
    next(node for node in small.graph.nodes if node.op == "Neg").op = "Identity"
    with pytest.raises(PruneoptError, match="differs from the masked original"):
        proof.prove(small, claim, context)


ROUTED = """<ir_version: 8, opset_import: ["" : 17]> g (float[N, 3] x) => (float[N, 3] y) {
    h = MatMul (x, w) best = ArgMax <axis = 1, keepdims = 0> (h) rows = Gather (table, best) y = Add (x, rows) }"""


def test_positions_along_a_pruned_axis_are_counted_anew() -> None:
    """The kept entries of what an ArgMax returns are places among what is left."""
    proto = onnx.parser.parse_model(ROUTED)
    table = np.random.default_rng(5).standard_normal((8, 3)).astype(np.float32)
    arrays = {"w": CONSTANTS["w"], "table": table}
    proto.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in arrays.items())
    _, claim, _ = halved(Model.from_proto(proto), drawn(5, 6))
    assert (claim.kept("best", np.array([0, 4, 6]), 0) == [0, 2, 3]).all()  # type: ignore[union-attr]
