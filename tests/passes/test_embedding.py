"""Rows of tables: those that the data uses stay as they are, all others become one."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

import pruneopt as po
from pruneopt.errors import PruneoptError, UsageError
from tests import models
from tests.sparsity.test_sparsify import weights

WORDS = 400


def classifier() -> po.Model:
    """Words looked up by an input."""
    b = models.Builder()
    table = b.weight(WORDS, 16, name="words")
    ids = b.node("Cast", "ids", to=onnx.TensorProto.INT32)
    x = b.node("ReduceMean", b.node("Gather", table, ids), axes=[1], keepdims=0)
    b.node("MatMul", x, b.weight(16, 3), outputs=["y"])
    model = b.model({}, {"y": ["n", 3]})
    model.graph.input.append(helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, ["n", "s"]))
    return models.loaded(model)


def batches(most: int = 90) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{"ids": rng.integers(10, most, (8, 12))} for _ in range(20)]


def test_what_occurs_is_kept_exactly() -> None:
    model = classifier()
    seen = batches()
    used = len(np.unique(np.concatenate([b["ids"] for b in seen])))
    result = po.prune(model, passes="embedding", calib=seen, timed=False)
    (table,) = next(p for p in result.report["passes"] if p["pass"] == "embedding")["tables"]
    assert table == {"name": "words", "rows": WORDS, "kept": used}
    assert weights(result.model)["words"].shape == (used + 1, 16)
    assert result.report["fidelity"]["y"]["rel_l2"] < 1e-6
    assert [i.name for i in result.model.inputs] == ["ids"]


def test_the_rest_reads_the_mean() -> None:
    model = classifier()
    result = po.prune(model, passes="embedding", calib=batches(), timed=False)
    short = weights(result.model)["words"]
    whole = weights(model)["words"]
    used = np.unique(np.concatenate([b["ids"] for b in batches()]))
    assert np.allclose(short[-1], np.delete(whole, used, 0).mean(0), atol=1e-6)
    assert np.array_equal(short[:-1], whole[used])


def test_the_most_frequent_rows() -> None:
    model = classifier()
    common = [{"ids": np.full((8, 12), 399)}] * 5 + batches()
    result = po.prune(model, passes="embedding{rows=0.1}", calib=common, timed=False)
    short = weights(result.model)["words"]
    assert len(short) == WORDS // 10 + 1
    assert np.array_equal(short[-2], weights(model)["words"][399])


def test_what_cannot_be_counted_stays() -> None:
    with pytest.raises(UsageError, match="--calib"):
        po.prune(classifier(), passes="embedding", timed=False)
    with pytest.raises(PruneoptError, match="no table"):
        po.prune(
            models.loaded(models.tied_language_model(words=300)),
            passes="embedding",
            calib=tied(),
            timed=False,
        )


def tied() -> list[dict[str, np.ndarray]]:
    return [{"ids": np.arange(20).reshape(2, 10)}]
