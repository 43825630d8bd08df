"""What repairs aim at: the model before blocks and tokens went, as far as tensors still mean the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper

import pruneopt as po
from pruneopt.analysis.infer import analyse
from pruneopt.model import Model
from pruneopt.passes.aim import aim_of
from pruneopt.passes.pipeline import Pipeline
from pruneopt.passes.rewriting.masked import Masked
from pruneopt.passes.spec import parse_passes
from pruneopt.passes.statistics.damage import Yardstick
from tests.passes.length.net import WIDTH, Encoder

ENCODER = Encoder(layers=4, tokens=16, read="mean")


def batches(count: int = 20) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [{"x": rng.standard_normal((8, 16, WIDTH)).astype(np.float32)} for _ in range(count)]


def entries(passes: str) -> tuple[Model, dict[str, dict[str, Any]]]:
    """The result, and what each pass said."""
    result = po.prune(Model.from_proto(ENCODER.proto()), passes=passes, calib=batches(), timed=False)
    return result.model, {entry["pass"]: entry for entry in result.report["passes"]}


def moved(model: Model) -> float:
    """Damage of a model against the whole encoder on the last batch, which is held out."""
    context = po.api.make_context(model)
    dense, found = (
        [{"y": context.session(m).run(batches()[-1])["y"]}]
        for m in (Model.from_proto(ENCODER.proto()), model)
    )
    return Yardstick(dense).damage(found)


@pytest.mark.parametrize("passes", ["depth{drop=1}", "depth{blocks=layer1.1}, width{ratio=0.5}"])
def test_repair_behind_depth_brings_the_whole_model_closer(passes: str) -> None:
    before, _ = entries(passes)
    after, said = entries(f"{passes}, repair")
    assert said["repair"]["way"] == "stream"
    assert moved(after) < 0.8 * moved(before)


def test_distances_of_a_repair_are_those_to_the_whole_model() -> None:
    before, _ = entries("depth{blocks=layer1}")
    _, said = entries("depth{blocks=layer1}, repair")
    context = po.api.make_context(before, batches())
    held = [batch for i, batch in enumerate(batches()) if i % 5 == 4]
    whole, cut = (
        [{"y": context.session(m).run(batch)["y"]} for batch in held]
        for m in (Model.from_proto(ENCODER.proto()), before)
    )
    yardstick = Yardstick.of(before.graph, whole)
    assert said["repair"]["scores"] == sorted(yardstick.scores)
    assert said["repair"]["distances"]["none"] == pytest.approx(yardstick.damage(cut), rel=1e-4)


def test_a_repair_behind_an_exact_pass_aims_at_outputs_of_its_own_model() -> None:
    _, said = entries("depth{blocks=layer1}, rotate, width{ratio=0.5}, repair")
    _, other = entries("depth{blocks=layer1}, width{ratio=0.5}, repair")
    assert said["repair"]["distances"]["none"] < other["repair"]["distances"]["none"]


def test_tensors_of_another_size_are_no_targets() -> None:
    model = Model.from_proto(ENCODER.proto())
    context = po.api.make_context(model, batches())
    short = Pipeline(parse_passes("length{left=0.5}")).run(model, context).model
    context.aim = model
    names = [t.name for node in model.graph.nodes for t in node.outputs if node.op == "Add"]
    stream = [name for name in names if context.observation(model).shapes[name][-1] == (WIDTH, WIDTH)]
    targets = aim_of(Masked(analyse(short, context.observation(short)), {}), context).targets(stream)
    assert targets == {stream[0]}  # in front of the first stage


def test_tensors_in_another_basis_are_no_targets() -> None:
    model, start = (Model.from_proto(ENCODER.proto()) for _ in range(2))
    proto = ENCODER.proto()
    first, second = [w for w in proto.graph.initializer if 64 in w.dims][:2]
    for weight, axis in ((first, 1), (second, 0)):  # neurons in another order: the same function
        weight.CopyFrom(
            numpy_helper.from_array(np.flip(numpy_helper.to_array(weight), axis).copy(), weight.name)
        )
    turned = Model.from_proto(proto)
    context = po.api.make_context(model, batches())
    context.aim = model
    claim = Masked(analyse(turned, context.observation(turned)), {}, start)
    inner, outer = (
        next(n.outputs[0].name for n in model.graph.nodes if any(t.name == w.name for t in n.inputs))
        for w in (first, second)
    )
    assert aim_of(claim, context).targets([inner, outer]) == {outer}
