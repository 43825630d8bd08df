"""Criteria of gradients against numbers worked out by hand, on two linear maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import pruneopt as po
from pruneopt.analysis.groups import Group, find_groups
from pruneopt.analysis.infer import analyse
from pruneopt.api import make_context
from pruneopt.cli import main
from pruneopt.errors import UsageError
from pruneopt.model import Model, constants, values
from pruneopt.passes.criteria import CRITERIA, find_criterion
from pruneopt.passes.learning.gradients import gradients
from pruneopt.passes.learning.losses import loss_of
from pruneopt.passes.statistics.evidence import Evidence

torch = pytest.importorskip("torch")

# y = (x A) B with x of two rows: A is [1, 3], B is [3, 2]. The loss is the sum of y times the batch's `t`.
A = np.array([[1.0, -2.0, 3.0]], np.float32)
B = np.array([[1.0, 0.0], [2.0, 1.0], [0.0, -1.0]], np.float32)
BATCHES = [
    {"x": np.array([[1.0], [2.0]], np.float32), "t": np.array([[1.0, 1.0], [-1.0, 0.0]], np.float32)},
]
# dL/dA = x (B t), dL/dB = (x A)^T t. Row 1: x=1, t=(1,1): B t = (1, 3, -1). Row 2: x=2, t=(-1,0): B t = (-1,-2,0).
GATES_A = np.array([[1.0, -6.0, -3.0], [-2.0, 8.0, 0.0]])  # A * dL/dA of each row
# Row 1: h = (1,-2,3): B * (h^T t) = row sums (1, -6, -3). The same by the chain rule.
GATES = 2 * GATES_A  # once for A, once for B
ELEMENTS_B = np.array([[[1, 0], [-4, -2], [0, -3]], [[-2, 0], [8, 0], [0, 0]]], np.float64)


def loss(outputs: dict[str, Any], batch: dict[str, npt.NDArray[np.float32]]) -> Any:
    return (outputs["y"] * torch.from_numpy(batch["t"])).sum()


def net() -> Model:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "A"], ["h"]), helper.make_node("MatMul", ["h", "B"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(A, "A"), numpy_helper.from_array(B, "B")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(proto)
    return Model.from_proto(proto)


@pytest.fixture(scope="module")
def case() -> tuple[Group, Evidence]:
    model = net()
    analysis = analyse(model, make_context(model).observation(model))
    (group,) = find_groups(analysis)
    evidence = Evidence(analysis)
    evidence.learn = lambda: gradients(model, BATCHES, f"{__name__}:loss")
    return group, evidence


MEAN_A, MEAN_B = GATES_A.mean(0), ELEMENTS_B.mean(0)
SQUARE_A, SQUARE_B = np.square(GATES_A).mean(0), np.square(ELEMENTS_B).mean(0)
EXPECTED = {
    "taylor": np.abs(GATES).mean(0),
    "taylor-element": np.abs(GATES_A).mean(0) + np.abs(ELEMENTS_B).mean(0).sum(1),
    "fisher": np.square(GATES).mean(0),
    "nvit": np.square(GATES.mean(0)),
    "vectorize": np.abs(MEAN_A) + np.abs(MEAN_B.sum(1)),
    "param-first": np.abs(MEAN_A) + np.abs(MEAN_B).sum(1),
    "param-second": SQUARE_A + SQUARE_B.sum(1),
    "param-mix": np.abs(MEAN_A - SQUARE_A / 2) + np.abs(MEAN_B - SQUARE_B / 2).sum(1),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_scores_are_those_of_the_equation(name: str, case: tuple[Group, Evidence]) -> None:
    np.testing.assert_allclose(find_criterion(name)(*case), EXPECTED[name], rtol=1e-5)


def test_by_hand() -> None:
    """Two of them as plain numbers, so that the table above is not its own judge."""
    assert EXPECTED["taylor"].tolist() == [3.0, 14.0, 3.0]
    assert EXPECTED["nvit"].tolist() == [1.0, 4.0, 9.0]


def test_gradients_are_worked_out_once() -> None:
    calls = []
    evidence = Evidence(analyse(net(), make_context(net()).observation(net())))
    evidence.learn = lambda: calls.append(1) or gradients(net(), BATCHES)  # type: ignore[func-returns-value]
    assert evidence.gradients() is evidence.gradients()
    assert calls == [1]


def test_without_a_loss_the_mean_square_is_the_distance_in_second_order() -> None:
    """E (sum w g)^2 is the variance, under the model's own probabilities, of what the entry adds to the logits."""
    x = np.array([[1.0]], np.float32)
    y = x @ A @ B
    found = gradients(net(), [{"x": x}] * 600, most=600, seed=3)
    measured = np.square(np.stack(found.sums["A"].products[1])).mean(0)
    p = np.exp(y[0]) / np.exp(y[0]).sum()
    shifts = A[0][:, None] * B
    variance = (p * np.square(shifts)).sum(1) - np.square((p * shifts).sum(1))
    np.testing.assert_allclose(measured, variance, rtol=0.35)


def test_draws_have_the_curvature_of_the_divergence_as_covariance() -> None:
    """Also where a class is so unlikely that hardly one of a thousand samples would be of it."""
    row = torch.tensor([4.0, -3.0])
    y = row.repeat(20_000, 1).requires_grad_()
    loss_of(None, net(), 0)({"y": y}, {}).backward()
    drawn = y.grad * len(y) ** 0.5
    p = row.softmax(0)
    wanted = torch.diag(p) - torch.outer(p, p)
    assert p[1] < 1e-3
    assert torch.allclose(drawn.T @ drawn / len(y), wanted, rtol=0.1, atol=1e-6)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_they_prune(name: str) -> None:
    from tests import models

    model = models.loaded(models.convnet())
    calib = [
        {t.name: np.random.default_rng(i).standard_normal((4, 3, 16, 16), np.float32) for t in model.inputs}
        for i in range(2)
    ]
    found = po.prune(
        model, passes=f"width{{macs=0.6, criterion={name}, plan=uniform}}", calib=calib, timed=False
    )
    assert found.report["output"]["macs"] <= 0.6 * found.report["input"]["macs"]


def test_labels_come_in_the_batch() -> None:
    """The gate of the entry that the labels single out is the last to go, through the whole of `prune`."""
    model = net()
    x = np.random.default_rng(0).standard_normal((8, 1)).astype(np.float32)
    for wanted, column in ((0, [1.0, 0.0]), (2, [0.0, 1.0])):
        # y0 is made of entries 0 and 1, y1 of entries 1 and 2; entry 1 is taken out of the question by its score.
        calib = [{"x": x, "t": np.tile(np.array(column, np.float32), (8, 1))}]
        options = f"ratio=0.67, align=1, criterion=taylor, loss={__name__}:loss"
        found = po.prune(model, passes=f"width{{{options}}}", calib=calib, timed=False).model
        (kept,) = [c for c in constants(found.graph) if c.name == "A"]
        assert values(kept).tolist() == [[A[0, i] for i in sorted({1, wanted})]]


def test_labels_are_a_loss_of_their_own() -> None:
    outputs = {"y": torch.tensor([[2.0, 0.0], [0.0, 1.0]])}
    batch = {"x": np.zeros((2, 1), np.float32), "kind": np.array([0, 0])}
    found = float(loss_of("labels", net(), 0)(outputs, batch))
    assert found == pytest.approx((np.log(1 + np.exp(-2)) + np.log(1 + np.e)) / 2)
    for wrong, said in (
        ({"x": batch["x"]}, "there is none"),
        (batch | {"other": batch["kind"]}, "kind, other"),
        (batch | {"kind": np.array([0, 2])}, "do not fit"),
    ):
        with pytest.raises(UsageError, match=said):
            loss_of("labels", net(), 0)(outputs, wrong)


def test_labels_come_in_from_the_command_line(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((8, 1)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, kind=(x[:, 0] > 0).astype(np.int64))
    net().save(tmp_path / "net.onnx")
    places = [str(tmp_path / name) for name in ("net.onnx", "out.onnx", "data.npz")]
    passes = "width{ratio=0.67, align=1, criterion=taylor, loss=labels}"
    run = [places[0], "-o", places[1], "--calib", places[2], "--passes", passes, "-q"]
    assert main([*run, "--labels", "kind"]) == 0
    assert main(run) == 1  # an array that nobody named


def test_needs_calibration_data() -> None:
    with pytest.raises(UsageError, match="calibration"):
        po.prune(net(), passes="width{ratio=0.5, criterion=taylor}", timed=False)


def test_an_unknown_loss_is_named() -> None:
    with pytest.raises(UsageError, match="nowhere:at_all"):
        gradients(net(), BATCHES, "nowhere:at_all")


def test_all_are_registered() -> None:
    assert set(EXPECTED) <= set(CRITERIA)
