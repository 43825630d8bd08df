"""Any subset of blocks can go: the result equals the file in which they are bypassed and nothing is removed."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pruneopt as po
from pruneopt.analysis.blocks import Blocks
from pruneopt.analysis.groups import find_groups
from pruneopt.analysis.infer import analyse
from pruneopt.api import make_context
from pruneopt.backends.session import Session
from pruneopt.errors import PruneoptError, UsageError
from pruneopt.frontends.dimensions import Feeds
from pruneopt.model import Model
from pruneopt.passes.context import Context
from pruneopt.passes.depth import Depth
from pruneopt.passes.depth.bypass import Amends, bypass
from pruneopt.passes.depth.candidates import candidates
from pruneopt.passes.depth.judge import Judge
from pruneopt.passes.depth.laco import match, merged
from pruneopt.passes.depth.order import exchanged, neighbours, reorder_layers
from pruneopt.passes.depth.select import Costs
from pruneopt.passes.depth.switches import Bypassed
from pruneopt.passes.distance import distance
from pruneopt.passes.pipeline import Pipeline
from pruneopt.passes.proof import prove
from pruneopt.passes.spec import parse_passes
from pruneopt.passes.statistics.damage import Yardstick, outputs
from tests import models, residual


def known(proto: onnx.ModelProto, calib: list[Feeds] | None = None) -> tuple[Blocks, Context]:
    """The blocks of a model as it is, and a context for it."""
    model = Model.from_proto(proto)
    context = make_context(model, calib)
    return Blocks(analyse(model, context.observation(model))), context


def batches(count: int = 10, seed: int = 0) -> list[Feeds]:
    """Real inputs of the networks over tokens."""
    rng = np.random.default_rng(seed)
    return [{"x": rng.standard_normal((2, 6, 12)).astype(np.float32)} for _ in range(count)]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.sampled_from(residual.KINDS), st.integers(1, 4), st.integers(0, 99), st.data())
def test_any_subset_equals_the_file_with_the_blocks_bypassed(
    kind: str, layers: int, seed: int, data: st.DataObject
) -> None:
    proto = residual.network(kind, layers, seed)
    blocks, context = known(proto)
    names = st.sampled_from([b.name for b in blocks.all()])
    chosen = data.draw(st.lists(names, min_size=1, max_size=5, unique=True))
    model = blocks.analysis.model
    outcome = Depth(blocks="+".join(chosen)).run(model, context)
    assert outcome.claim is not None
    assert prove(outcome.model, outcome.claim, context, 1e-5).max_rel_error <= 1e-5
    gone = {b["exit"]: b["entry"] for b in outcome.entry["dropped"]}
    whole = Session(Model.from_proto(residual.bypassed(proto, gone)))
    small = Session(outcome.model)
    for feeds in context.feeds:
        assert distance(whole.run(feeds)["y"], small.run(feeds)["y"]) <= 1e-5
    assert len(outcome.model.graph.nodes) < len(model.graph.nodes)


def test_what_is_dead_goes_with_the_block() -> None:
    """Half of the layers are half of what lies between stem and head, shapes read inside included."""
    one = Model.from_proto(residual.network("pre", 1)).graph
    blocks, context = known(residual.network("pre", 3))
    small = Depth(blocks="layer0+layer2").run(blocks.analysis.model, context).model
    assert sorted(n.op for n in small.graph.nodes) == sorted(n.op for n in one.nodes)


def test_a_wrong_bypass_is_refused() -> None:
    """Two sub-layers taken out where one was meant."""
    blocks, context = known(residual.network("pre", 2))
    wrong = bypass(blocks, [blocks.layers[0]])
    with pytest.raises(PruneoptError, match="differs from the masked original"):
        prove(wrong, Bypassed(blocks, [blocks.parts["layer0"][1]]), context, 1e-5)


def silenced(kind: str, layers: int, quiet: tuple[int, ...]) -> onnx.ModelProto:
    """A network in which both branches of the `quiet` layers are next to nothing."""
    proto = residual.network(kind, layers)
    weights = [w for w in proto.graph.initializer if len(w.dims) == 2]
    per = (len(weights) - 2) // layers
    for i in quiet:
        for w in weights[1 + i * per : 1 + (i + 1) * per]:
            w.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(w) * 1e-3, w.name))
    return proto


@pytest.mark.parametrize("criterion", ["greedy", "output", "influence"])
def test_what_does_little_goes_first(criterion: str) -> None:
    blocks, context = known(silenced("pre", 4, (1, 2)), batches())
    outcome = Depth(drop=2, criterion=criterion).run(blocks.analysis.model, context)
    assert [b["name"] for b in outcome.entry["dropped"]] == ["layer1", "layer2"]


def test_the_plain_index_drops_from_the_end() -> None:
    blocks, context = known(residual.network("pre", 4))
    outcome = Depth(ratio=0.5, criterion="index").run(blocks.analysis.model, context)
    assert [b["name"] for b in outcome.entry["dropped"]] == ["layer2", "layer3"]


@pytest.mark.parametrize("share", [0.8, 0.5])
def test_a_budget_is_met_and_used(share: float) -> None:
    result = po.prune(
        Model.from_proto(residual.network("pre", 4)), passes=f"depth{{macs={share}}}", timed=False
    )
    ratio = result.report["output"]["macs"] / result.report["input"]["macs"]
    assert share - 0.15 < ratio <= share
    entry = next(p for p in result.report["passes"] if p["pass"] == "depth")
    assert entry["curve"]
    assert "synthetic" in entry["note"]


def test_a_budget_below_all_blocks_is_refused() -> None:
    blocks, context = known(residual.network("pre", 2))
    with pytest.raises(PruneoptError, match="cannot go below"):
        Depth(macs=0.01).run(blocks.analysis.model, context)


def test_a_cache_goes_with_its_layer_only_when_allowed() -> None:
    proto = residual.decoder_with_cache()
    blocks, context = known(proto)
    model = blocks.analysis.model
    with pytest.raises(PruneoptError, match=r"output 'present\.0\.key'; cache=true"):
        Depth(drop=1).run(model, context)
    outcome = Depth(blocks="layer1", cache=True).run(model, context)
    gone = [f"{which}.1.{what}" for which in ("past", "present") for what in ("key", "value")]
    assert outcome.entry["signature"] == gone
    assert [t.name for t in outcome.model.graph.inputs] == [
        t.name for t in model.graph.inputs if t.name not in gone
    ]
    assert outcome.claim is not None
    assert prove(outcome.model, outcome.claim, context, 1e-5).max_rel_error <= 1e-5


def test_where_caches_stay_a_budget_takes_what_makes_none() -> None:
    blocks, context = known(residual.decoder_with_cache())
    outcome = Depth(macs=0.95).run(blocks.analysis.model, context)
    assert all(b["name"].endswith(".1") for b in outcome.entry["dropped"])
    assert outcome.entry["curve"][-1]["macs"] <= 0.95


def test_the_command_takes_a_changed_signature_only_from_depth() -> None:
    model = Model.from_proto(residual.decoder_with_cache())
    result = po.prune(model, passes="depth{drop=1, cache=true}, width{ratio=0.5}", timed=True)
    assert len(result.model.graph.outputs) == len(model.graph.outputs) - 2
    # ffn blocks make no cache: they may go in any case
    result = po.prune(model, passes="depth{blocks=layer0.1}", timed=False)
    assert len(result.model.graph.outputs) == len(model.graph.outputs)


def test_a_shallow_decoder_leaves_the_encoder() -> None:
    blocks, context = known(residual.encoder_decoder(3))
    outcome = Depth(drop=2, part="decoder").run(blocks.analysis.model, context)
    assert {b["name"] for b in outcome.entry["dropped"]} < {"layer3", "layer4", "layer5"}
    outcome = Depth(drop=2, part="encoder").run(blocks.analysis.model, context)
    assert {b["name"] for b in outcome.entry["dropped"]} < {"layer0", "layer1", "layer2"}


@pytest.mark.parametrize("kind", ["pre", "conv"])
def test_a_linear_map_helps_where_blocks_are_linear(kind: str) -> None:
    """Without activations a block of a feed-forward network is a linear map, and its loss can be undone."""
    b = models.Builder(1)
    conv = kind == "conv"
    x = (
        b.node("Conv", "x", b.weight(8, 3, 3, 3), pads=[1] * 4)
        if conv
        else b.node("MatMul", "x", b.weight(12, 8))
    )
    for _ in range(3):
        w = b.weight(8, 8, 1, 1) if conv else b.weight(8, 8)
        x = b.node("Add", x, b.node("Conv" if conv else "MatMul", x, w))
    head = b.weight(5, 8, 1, 1) if conv else b.weight(8, 5)
    b.node("Conv" if conv else "MatMul", x, head, outputs=["y"])
    size: list[Any] = [3, 4, 4] if conv else ["s", 12]
    proto = b.model({"x": ["n", *size]}, {"y": ["n", *([5, 4, 4] if conv else ["s", 5])]})
    rng = np.random.default_rng(0)
    shape = (2, 3, 4, 4) if conv else (2, 6, 12)
    data: list[Feeds] = [{"x": rng.standard_normal(shape).astype(np.float32)} for _ in range(10)]
    blocks, context = known(proto, data)
    model = blocks.analysis.model
    outcome = Depth(blocks="layer0+layer1", fit="linear").run(model, context)
    assert outcome.entry["mapped"] == [blocks.layers[1].exit]  # one map for the run of two
    assert outcome.claim is not None
    assert prove(outcome.model, outcome.claim, context, 1e-5).max_rel_error <= 1e-5
    dense = [Session(model).run(feeds)["y"] for feeds in data]
    plain = bypass(blocks, blocks.layers[:2])
    without, fitted = (
        sum(distance(y, Session(m).run(f)["y"]) for y, f in zip(dense, data, strict=True))
        for m in (plain, outcome.model)
    )
    assert fitted < 0.5 * without


def test_maps_are_left_out_where_fewer_blocks_without_them_do_less_damage() -> None:
    """Two silent layers can go for nothing; with the cost of maps a third one would have to."""
    blocks, context = known(silenced("pre", 4, (1, 2)), batches())
    share = 1.0001 - Costs(blocks, context).saved("macs", blocks.layers[1:3])
    half = Depth(macs=share, unit="layer", fit="linear").run(blocks.analysis.model, context)
    assert [b["name"] for b in half.entry["dropped"]] == ["layer1", "layer2"]
    assert half.entry["mapped"] == []


def test_layers_of_one_build_are_matched_and_merged() -> None:
    blocks, context = known(residual.network("pre", 3), batches())
    first, second, third = blocks.layers
    pairs = match(blocks, first, second)
    nodes = blocks.flow.nodes
    assert len(pairs) == 6 + 2 * 2  # weights, and scale and bias of two norms
    assert match(blocks, first, blocks.parts["layer1"][0]) == {}
    weights = merged(blocks, first, [second, third])
    for (place, slot), value in weights.items():
        a, b = nodes[place].inputs[slot], nodes[pairs[place, slot][0]].inputs[slot]
        c = nodes[match(blocks, first, third)[place, slot][0]].inputs[slot]
        np.testing.assert_allclose(value, b.values + c.values - a.values, atol=1e-6)
    outcome = Depth(blocks="layer1+layer2", merge=True).run(blocks.analysis.model, context)
    assert outcome.claim is not None
    assert prove(outcome.model, outcome.claim, context, 1e-5).max_rel_error <= 1e-5


def test_layers_change_places_by_their_weights() -> None:
    """Two layers exchanged in the file are found and put back; nothing else helps."""
    proto = residual.network("pre", 3)
    blocks, _ = known(proto)
    swapped = exchanged(blocks, blocks.layers[1], blocks.layers[2], {})
    model = blocks.analysis.model.copy()
    Amends(weights=swapped).put_weights(model)
    context = make_context(model, batches())
    wrong = Blocks(analyse(model, context.observation(model)))
    assert [(a.name, b.name) for a, b in neighbours(wrong, [wrong.layers[1]])] == [("layer0", "layer2")]
    judge = Judge(wrong, [], context, context.calibration)
    judge._yardstick = Yardstick(outputs(Model.from_proto(proto), context, context.calibration))
    found = reorder_layers(wrong, [], judge)
    assert judge.damage(found) < 1e-9 < judge.damage(Amends())
    for place, value in found.weights.items():
        np.testing.assert_array_equal(value, blocks.flow.nodes[place[0]].inputs[place[1]].values)


def test_reordering_is_proved() -> None:
    blocks, context = known(residual.network("pre", 4), batches())
    outcome = Depth(blocks="layer1", reorder=True).run(blocks.analysis.model, context)
    assert outcome.claim is not None
    assert prove(outcome.model, outcome.claim, context, 1e-5).max_rel_error <= 1e-5


def test_kept_names_hold_a_block() -> None:
    model = Model.from_proto(residual.network("pre", 2))
    blocks, context = known(residual.network("pre", 2))
    context.keep = (blocks.layers[0].exit,)
    with pytest.raises(PruneoptError, match=r"layer0 cannot go: .* is kept as asked"):
        Depth(blocks="layer0").run(model, context)
    assert [b["name"] for b in Depth(drop=1).run(model, context).entry["dropped"]] == ["layer1"]


def test_a_model_without_blocks_is_refused_with_a_reason() -> None:
    b = models.Builder()
    b.node("MatMul", "x", b.weight(4, 4), outputs=["y"])
    blocks, context = known(b.model({"x": ["n", 4]}, {"y": ["n", 4]}))
    with pytest.raises(PruneoptError, match="no residual block"):
        Depth(drop=1).run(blocks.analysis.model, context)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("depth", "say how much"),
        ("depth{ratio=0.5, drop=2}", "say how much"),
        ("depth{ratio=2}", "not in"),
        ("depth{drop=1, criterion=magic}", "no criterion 'magic'"),
        ("depth{drop=1, unit=head}", "no unit 'head'"),
        ("depth{drop=1, part=tail}", "no part 'tail'"),
        ("depth{drop=1, fit=cubic}", "no fit 'cubic'"),
        ("depth{drop=-1}", "not a number of layers"),
    ],
)
def test_wrong_options_are_refused(text: str, what: str) -> None:
    with pytest.raises(UsageError, match=what):
        parse_passes(text)


def test_fit_needs_data_and_blocks_need_a_name() -> None:
    blocks, context = known(residual.network("pre", 2))
    with pytest.raises(UsageError, match="give --calib"):
        Depth(drop=1, fit="linear").run(blocks.analysis.model, context)
    with pytest.raises(UsageError, match="there is no block 'layer9'"):
        Depth(blocks="layer9").run(blocks.analysis.model, context)


def test_it_composes_with_width() -> None:
    model = Model.from_proto(residual.network("pre", 4))
    outcome = Pipeline(parse_passes("depth{drop=2}, width{ratio=0.5, align=1}")).run(model)
    assert len(outcome.model.graph.nodes) < len(model.graph.nodes)


def test_a_fixed_exit_takes_the_early_head() -> None:
    model = Model.from_proto(residual.with_early_exit())
    result = po.prune(model, passes="depth{exit=early}", timed=False)
    assert [t.name for t in result.model.graph.outputs] == ["early", "late"]
    assert result.report["output"]["macs"] < 0.6 * result.report["input"]["macs"]
    found = Session(result.model).run(batches(1)[0])
    whole = Session(model).run(batches(1)[0])
    np.testing.assert_allclose(found["late"], whole["early"], rtol=1e-5)
    with pytest.raises(PruneoptError, match="no output behind 'late'"):
        po.prune(model, passes="depth{exit=late}", timed=False)


def test_a_gated_exit_asks_the_early_head_how_sure_it_is() -> None:
    model = Model.from_proto(residual.with_early_exit())
    rows = [{"x": each["x"][i : i + 1]} for each in batches(6) for i in range(2)]
    early, late = (
        np.concatenate([Session(model).run(row)[name] for row in rows]) for name in ("early", "late")
    )
    shares = np.exp(early - early.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    entropy = -(shares * np.log(shares)).sum(1) / np.log(5)
    threshold = float(np.median(entropy))
    result = po.prune(model, passes=f"depth{{exit=early, entropy={threshold}}}", timed=False)
    session = Session(result.model)
    found = np.concatenate([session.run(row)["late"] for row in rows])
    sure = entropy < threshold
    assert 0 < sure.sum() < len(sure)
    np.testing.assert_allclose(found, np.where(sure[:, None], early, late), rtol=1e-4, atol=1e-6)
    body = next(n for n in result.model.graph.nodes if n.op == "If").attrs["else_branch"]
    assert sum(n.op == "MatMul" for n in body.nodes) == 5  # two layers and the late head


def test_a_candidate_saves_less_where_width_has_gone() -> None:
    blocks, context = known(residual.network("pre", 2), batches())
    units = Depth(drop=1).candidates(blocks, context)
    first, second = candidates(blocks, units, context, context.calibration)
    assert first.damage > 0
    assert second.damage > 0
    hidden = next(g.atom for g in find_groups(blocks.analysis) if g.size == 24)  # of the first layer's ffn
    whole = first.saved("macs", {})
    narrow = first.saved("macs", {hidden: 12})
    positions = 3 * 48  # at the larger observed size
    assert whole - narrow == 2 * 12 * residual.WIDTH * positions
    assert second.saved("macs", {hidden: 12}) == whole
    assert first.saved("params", {}) - first.saved("params", {hidden: 12}) == 2 * 12 * residual.WIDTH


def test_a_shape_read_inside_a_dropped_block_is_told_from_the_inputs() -> None:
    """What stays and asks for the size of a dropped layer's hidden state does not keep its weights alive."""
    b = models.Builder()
    x = b.node("MatMul", "x", b.weight(12, 8))
    hidden = b.node("Relu", b.node("MatMul", x, b.weight(8, 24)))
    size = b.node("Slice", b.node("Shape", hidden), b.value([0]), b.value([2]))
    x = b.node("Add", x, b.node("MatMul", hidden, b.weight(24, 8)))
    x = b.node(
        "Add", x, b.node("MatMul", b.node("Relu", b.node("MatMul", x, b.weight(8, 24))), b.weight(24, 8))
    )
    b.node("Reshape", x, b.node("Concat", size, b.value([2, 4]), axis=0), outputs=["y"])
    blocks, context = known(b.model({"x": ["n", "s", 12]}, {"y": ["n", "s", 2, 4]}))
    outcome = Depth(blocks="layer0").run(blocks.analysis.model, context)
    assert sum(n.op == "MatMul" for n in outcome.model.graph.nodes) == 3
    assert outcome.claim is not None
    assert prove(outcome.model, outcome.claim, context, 1e-5).max_rel_error <= 1e-5


def test_a_body_that_reads_the_exit_reads_the_entry_then() -> None:
    b = models.Builder()
    x = b.node("MatMul", "x", b.weight(12, 8))
    x = b.node("Add", x, b.node("MatMul", b.node("Relu", x), b.weight(8, 8)))
    total = b.node("ReduceSum", x, keepdims=0)
    bodies = {}
    for branch, op in (("then_branch", "Neg"), ("else_branch", "Exp")):
        end = onnx.helper.make_tensor_value_info(f"{op}_out", onnx.TensorProto.FLOAT, None)
        node = onnx.helper.make_node(op, [x], [f"{op}_out"])
        bodies[branch] = onnx.helper.make_graph([node], branch, [], [end])
    b.node("If", b.node("Less", total, b.value(0.0, np.float32)), outputs=["y"], **bodies)
    blocks, context = known(b.model({"x": ["n", 12]}, {"y": ["n", 8]}))
    outcome = Depth(blocks="layer0").run(blocks.analysis.model, context)
    assert outcome.claim is not None
    assert prove(outcome.model, outcome.claim, context, 1e-5).max_rel_error <= 1e-5
    assert sum(n.op == "MatMul" for n in outcome.model.graph.nodes) == 1


def test_inspect_lists_blocks_with_their_shares() -> None:
    found = po.inspect(Model.from_proto(residual.decoder_with_cache(2))).blocks()
    assert [each["name"] for each in found] == [
        *("layer0", "layer1"),
        *("layer0.0", "layer0.1", "layer1.0", "layer1.1"),
    ]
    assert found[0]["outputs"] == ["present.0.key", "present.0.value"]
    assert found[0]["macs"] == pytest.approx(found[2]["macs"] + found[3]["macs"])
    assert 0.4 < found[0]["params"] < 0.5
