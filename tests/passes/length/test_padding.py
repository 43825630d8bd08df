"""Columns of padding go before the model runs: real tokens are what they were, outputs keep their size."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest

import pruneopt as po
from pruneopt.errors import PruneoptError, UsageError
from pruneopt.model import Model
from pruneopt.passes.spec import parse_passes
from tests import models
from tests.passes.length.net import WIDTH, Encoder

Array = npt.NDArray[Any]


def trimmed(proto: onnx.ModelProto) -> onnx.ModelProto:
    return po.prune(Model.from_proto(proto), passes="length{trim=true}", timed=False).model.proto()


def run(proto: onnx.ModelProto, *inputs: Array, names: list[str] | None = None) -> list[Any]:
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    found: list[Any] = session.run(
        names, dict(zip((t.name for t in session.get_inputs()), inputs, strict=True))
    )
    return found


def data(*lengths: int, columns: int = 12) -> tuple[Array, Array]:
    """(x, mask) of rows that have so many real tokens."""
    x = np.random.default_rng(0).standard_normal((len(lengths), columns, WIDTH)).astype(np.float32)
    return x, (np.arange(columns) < np.array(lengths)[:, None]).astype(np.float32)


def test_a_class_token_is_what_it_was() -> None:
    proto = Encoder(tokens=None, masked=True).proto()
    for lengths in ((5, 7, 3), (12, 1), (1,)):
        x, mask = data(*lengths)
        np.testing.assert_allclose(run(trimmed(proto), x, mask)[0], run(proto, x, mask)[0], atol=1e-5)


def test_outputs_of_tokens_are_as_long_as_before_and_zero_where_padding_was() -> None:
    proto = Encoder(tokens=None, masked=True, read="all").proto()
    x, mask = data(5, 7, 3)
    expected, found = run(proto, x, mask)[0], run(trimmed(proto), x, mask)[0]
    assert found.shape == expected.shape
    np.testing.assert_allclose(found[:, :7], expected[:, :7], atol=1e-5)
    assert not found[:, 7:].any()


def test_less_is_computed() -> None:
    short = trimmed(Encoder(tokens=None, masked=True).proto())
    inner = next(n.output[0] for n in short.graph.node if n.op_type == "Softmax")
    short.graph.output.append(onnx.helper.make_empty_tensor_value_info(inner))
    x, mask = data(5, 7, 3, columns=40)
    assert run(short, x, mask, names=[inner])[0].shape[-2:] == (7, 7)


def test_a_mask_that_keeps_nothing_leaves_one_column() -> None:
    short = trimmed(Encoder(tokens=None, masked=True).proto())
    assert np.isfinite(run(short, *data(0, 0))[0]).all()


@pytest.mark.parametrize(
    ("proto", "why"),
    [
        (Encoder(tokens=16, masked=True).proto(), "its length is fixed"),
        (Encoder(tokens=None).proto(), "no input of this model can be the mask"),
        (models.convnet(), "no input of tokens"),
        (Encoder(tokens=None, masked=True, read="mean").proto(), "padded tokens have a say"),
    ],
)
def test_what_has_no_padding_or_lets_it_have_a_say_is_refused(proto: onnx.ModelProto, why: str) -> None:
    with pytest.raises(PruneoptError, match=why):
        trimmed(proto)


def test_it_stands_by_itself() -> None:
    with pytest.raises(UsageError, match="say how much"):
        parse_passes("length{trim=true, left=0.5}")
