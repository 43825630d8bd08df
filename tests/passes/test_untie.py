"""A weight of its own for each product that shares one."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from pruneopt import api
from pruneopt.errors import PruneoptError
from pruneopt.model import Model, values
from pruneopt.passes.base import Outcome
from pruneopt.passes.pipeline import Pipeline
from pruneopt.passes.sparsify import Sparsify
from pruneopt.passes.untie import Untie

RNG = np.random.default_rng(4)


def language_model() -> Model:
    """Words are looked up in a table, which is the classifier, too."""
    text = (
        '<ir_version: 8, opset_import: ["": 17]> g (int64[b, t] x) => (float[b, t, 64] y) '
        "{ e = Gather(w, x) h = Tanh(e) v = Transpose <perm = [1, 0]> (w) y = MatMul(h, v) }"
    )
    proto = onnx.parser.parse_model(text)
    w = RNG.standard_normal((64, 32)).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(w, "w"))
    return Model.from_proto(proto)


def untied(model: Model) -> Outcome:
    return Pipeline((Untie(),)).run(model, api.make_context(model))


def test_the_classifier_gets_a_copy_and_the_table_stays() -> None:
    outcome = untied(language_model())
    assert [node.op for node in outcome.model.graph.nodes] == ["Gather", "Tanh", "MatMul"]
    gather, _, product = outcome.model.graph.nodes
    np.testing.assert_array_equal(values(gather.inputs[0]).T, values(product.inputs[1]))
    entry = outcome.entry["passes"][0]
    assert [each["weight"] for each in entry["untied"]] == ["w"]
    assert entry["equivalence"]["max_rel_error"] == 0


def test_a_tied_classifier_stays_dense_with_a_reason() -> None:
    with pytest.raises(PruneoptError, match="'w': used more than once; `untie`"):
        Pipeline((Sparsify(sparsity=0.5, pattern="16x1"),)).run(language_model())


def test_untied_it_becomes_sparse() -> None:
    passes = (Untie(), Sparsify(sparsity=0.5, pattern="16x1"))
    made = Pipeline(passes).run(language_model()).model
    gather, _, product = made.graph.nodes
    assert np.mean(values(product.inputs[1]) == 0) == 0.5
    assert values(gather.inputs[0]).all()


def test_what_nobody_shares_is_left() -> None:
    again = untied(untied(language_model()).model)
    assert again.entry["passes"][0]["untied"] == []
