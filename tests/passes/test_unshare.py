"""Layers that read the same table of positions get widths of their own, and the table once where they agree."""

from __future__ import annotations

import numpy as np
import onnx

from pruneopt import api
from pruneopt.analysis.groups import find_groups
from pruneopt.analysis.infer import analyse
from pruneopt.model import Model
from pruneopt.passes.base import Outcome
from pruneopt.passes.context import Context
from pruneopt.passes.pipeline import Pipeline
from pruneopt.passes.unshare import Unshare
from pruneopt.passes.width import Width

RNG = np.random.default_rng(5)
POSITIONS = "s = Shape <start = 1, end = 2> (x) t = Slice(table, zero, s, zero) u = Cos(t)"
TWO_LAYERS = (
    "a = MatMul(x, v1) b = Mul(a, u) c = MatMul(b, w1) d = MatMul(c, v2) e = Mul(u, d) y = MatMul(e, w2)"
)


def loaded(nodes: str) -> Model:
    text = (
        '<ir_version: 8, opset_import: ["": 17]> g (float[b, t, 8] x) => (float[b, t, 8] y) '
        f"<int64[1] zero = {{0}}> {{ {POSITIONS} {nodes} }}"
    )
    proto = onnx.parser.parse_model(text)
    shapes = {"table": (32, 16), "v1": (8, 16), "w1": (16, 8), "v2": (8, 16), "w2": (16, 8)}
    for name, shape in shapes.items():
        array = RNG.standard_normal(shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return Model.from_proto(proto)


def sizes(model: Model, context: Context) -> list[int]:
    return sorted(g.size for g in find_groups(analyse(model, context.observation(model))))


def ran(model: Model, *passes: object) -> tuple[Outcome, Context]:
    context = api.make_context(model)
    return Pipeline(passes).run(model, context), context  # type: ignore[arg-type]


def ops(outcome: Outcome) -> list[str]:
    return sorted(n.op for n in outcome.model.graph.nodes)


def test_layers_that_share_a_table_come_apart() -> None:
    model = loaded(TWO_LAYERS)
    outcome, context = ran(model, Unshare())
    assert outcome.entry["passes"][0]["copies"] == 1
    assert outcome.entry["passes"][0]["equivalence"]["max_rel_error"] == 0
    assert ops(outcome).count("Cos") == ops(outcome).count("Slice") == 2  # what makes sizes is not copied
    assert ops(outcome).count("Shape") == 1
    assert sizes(model, context) == [8, 16]
    assert sizes(outcome.model, context) == [8, 16, 16]


def test_copies_that_lose_the_same_are_one_again() -> None:
    both, _ = ran(loaded(TWO_LAYERS), Unshare(), Width(ratio=0.5, only="c*"))
    assert ops(both).count("Cos") == 1  # neither was cut
    model = loaded(TWO_LAYERS)
    for only, count in (("v1", 2), ("*", 2)):
        cut, _ = ran(model, Unshare(), Width(ratio=0.5, only=only))
        assert ops(cut).count("Cos") == count
        assert cut.entry["passes"][1]["equivalence"]["max_rel_error"] < 1e-5


def test_what_is_tied_otherwise_is_left_alone() -> None:
    model = loaded("a = MatMul(x, v1) b = Mul(a, u) c = Mul(b, u) d = Add(c, u) y = MatMul(d, w1)")
    outcome, _ = ran(model, Unshare())
    assert outcome.model is model
    assert outcome.entry["passes"][0]["copies"] == 0
