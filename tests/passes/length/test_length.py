"""The pass as users call it: signature, refusals, schedules, fixed places."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import pruneopt as po
from pruneopt.api import make_context
from pruneopt.errors import PruneoptError, UsageError
from pruneopt.model import Model
from pruneopt.passes.length import Length
from pruneopt.passes.length.counting import Stage
from pruneopt.passes.length.schedule import lengths, removing, schedule, shares
from pruneopt.passes.proof import prove
from tests.models import convnet, halved, loaded
from tests.passes.length.net import Encoder


def test_the_signature_stays() -> None:
    model = loaded(Encoder(tokens=None, masked=True, read="all").proto())
    short = po.prune(model, passes="length{left=0.5}", timed=False)
    ends = [(t.name, t.dtype, t.shape) for t in (*model.graph.inputs, *model.graph.outputs)]
    found = short.model.graph
    assert [(t.name, t.dtype, t.shape) for t in (*found.inputs, *found.outputs)] == ends
    onnx.checker.check_model(short.model.proto(), full_check=True)
    assert short.report["output"]["macs"] < 0.8 * short.report["input"]["macs"]


def test_a_budget_is_met_as_closely_as_tokens_allow() -> None:
    model = loaded(Encoder(tokens=65).proto())
    report = po.prune(model, passes="length{macs=0.7}", timed=False).report
    assert 0.65 < report["output"]["macs"] / report["input"]["macs"] <= 0.7


@pytest.mark.parametrize(
    "spec", ["length{left=0.5}", "length{keep=0.7, method=topk}", "length{sequence=0.7}"]
)
def test_half_precision_stays_half(spec: str) -> None:
    proto = halved(Encoder(tokens=None if "sequence" not in spec else 16, masked=True, read="all").proto())
    short = po.prune(loaded(proto), passes=spec, timed=False)
    onnx.checker.check_model(short.model.proto(), full_check=True)


@pytest.mark.parametrize("read", ["first", "all"])
def test_fixed_places(read: str) -> None:
    model = loaded(Encoder(read=read).proto())
    context = make_context(model)
    outcome = Length(keep=0.6, method="static").run(model, context)
    assert outcome.claim is not None
    prove(outcome.model, outcome.claim, context)
    assert {n.op for n in outcome.model.graph.nodes} >= {"Gather"}
    assert "TopK" not in {n.op for n in outcome.model.graph.nodes}


def causal() -> Model:
    """Every position is masked from those behind it."""
    proto = Encoder(tokens=17, read="all").proto()
    low = numpy_helper.from_array(np.triu(np.full((17, 17), -1e9, np.float32), 1), "causal")
    proto.graph.initializer.append(low)
    for index, node in enumerate(list(proto.graph.node)):
        if node.op_type == "Softmax":
            added = onnx.helper.make_node("Add", [node.input[0], "causal"], [f"masked{index}"])
            at = next(i for i, n in enumerate(proto.graph.node) if n.output[0] == node.output[0])
            node.input[0] = f"masked{index}"
            proto.graph.node.insert(at, added)
    return loaded(proto)


def test_causal_attention_is_refused() -> None:
    with pytest.raises(PruneoptError, match="causal"):
        Length(left=0.5).run(causal(), make_context(causal()))


def test_a_network_without_attention_is_refused() -> None:
    model = loaded(convnet())
    with pytest.raises(PruneoptError, match="no softmax"):
        Length(left=0.5).run(model, make_context(model))


@pytest.mark.parametrize(
    "options", [{}, {"keep": 0.5, "left": 0.5}, {"keep": 1.5}, {"r": 0}, {"left": 0.5, "method": "best"}]
)
def test_options_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="length"):
        Length(**options)


def test_stages_by_number() -> None:
    model = loaded(Encoder(layers=4).proto())
    entry = Length(keep=0.5, method="topk", stages="1/2").run(model, make_context(model)).entry
    assert [stage["left"] for stage in entry["sites"][0]["stages"]] == [[9], [5]]
    with pytest.raises(UsageError, match="0 to 3"):
        Length(keep=0.5, stages="9").run(model, make_context(model))


def test_schedules() -> None:
    """ToMe's r=13 on 197 tokens, its decreasing form, and DynamicViT's 0.7 three times."""
    assert np.diff([197, *lengths(removing(12, 197, 13, 1), "tome", 197)]).tolist() == [-13] * 12
    falling = np.diff([197, *lengths(schedule(shares(12, "tome", None, 0.5, True), 1), "tome", 197)])
    assert (np.diff(falling) >= -1).all()
    assert falling[0] < 3 * falling[-1]
    assert lengths([Stage(7000, 1), Stage(4900, 1), Stage(3430, 1)], "topk", 197) == [139, 98, 69]


@pytest.mark.parametrize(("opset", "tokens"), [(10, 17), (11, None)])
def test_old_opsets_are_refused_with_what_is_needed(opset: int, tokens: int | None) -> None:
    model = loaded(Encoder(opset=opset, tokens=tokens).proto())
    with pytest.raises(PruneoptError, match=f"needs opset 1[12], the model has {opset}"):
        po.prune(model, passes="length{left=0.5}", timed=False)
