"""Blocks are found by dominance: whole layers, their parts, and why the rest stays."""

from __future__ import annotations

import onnx
import pytest

from pruneopt.analysis.blocks import Blocks
from pruneopt.analysis.infer import analyse
from pruneopt.api import make_context
from pruneopt.model import Model
from tests import models, residual


def found(proto: onnx.ModelProto) -> Blocks:
    """The blocks of a model as it is."""
    model = Model.from_proto(proto)
    return Blocks(analyse(model, make_context(model).observation(model)))


@pytest.mark.parametrize("kind", [k for k in residual.KINDS if k not in ("conv", "bias")])
def test_layers_of_attention_and_ffn(kind: str) -> None:
    blocks = found(residual.network(kind, 3))
    assert [len(blocks.parts[layer.name]) for layer in blocks.layers] == [2, 2, 2]
    assert not blocks.outer
    assert not any(b.refused or b.sides for b in blocks.all())
    for a, b in zip(blocks.layers, blocks.layers[1:], strict=False):
        assert a.exit == b.entry


@pytest.mark.parametrize("kind", ["post", "relu", "scaled", "decomposed"])
def test_what_follows_the_addition_goes_with_its_block(kind: str) -> None:
    """Also behind the last addition, where no further block shows that it belongs to it."""
    blocks = found(residual.network(kind, 2))
    ops = [blocks.stream.op(layer.exit) for layer in blocks.layers]
    assert ops[0] == ops[1] != "Add" or kind == "decomposed"
    head = next(n for n in blocks.flow.nodes if n.outputs[0].name == "y")
    assert blocks.layers[-1].exit == head.inputs[0].name


def test_a_final_norm_is_no_part_of_the_last_block() -> None:
    blocks = found(residual.network("pre", 2))
    assert blocks.stream.op(blocks.layers[-1].exit) == "Add"


def test_a_shared_bias_is_no_stream_and_stays_when_its_layer_goes() -> None:
    blocks = found(residual.network("bias", 3))
    assert [len(blocks.parts[layer.name]) for layer in blocks.layers] == [2, 2, 2]


def test_a_shortcut_that_changes_the_size_stays() -> None:
    blocks = found(residual.network("conv", 2))
    assert len(blocks.layers) == 4
    assert len(blocks.shortcuts) == 1
    assert all(blocks.stream.op(layer.exit) == "Relu" for layer in blocks.layers)


def test_the_outputs_of_a_cache_are_sides_of_their_layer() -> None:
    blocks = found(residual.decoder_with_cache())
    assert [layer.sides for layer in blocks.layers] == [
        (f"present.{i}.key", f"present.{i}.value") for i in range(3)
    ]
    assert [layer.inputs for layer in blocks.layers] == [
        (f"past.{i}.key", f"past.{i}.value") for i in range(3)
    ]


def test_a_decoder_is_what_reads_another_streams_end() -> None:
    blocks = found(residual.encoder_decoder())
    assert [len(blocks.parts[layer.name]) for layer in blocks.layers] == [2, 2, 3, 3]
    assert blocks.decoder == {"layer2", "layer3"}


def test_a_rotation_is_no_block() -> None:
    b = models.Builder()
    x = b.node("MatMul", "x", b.weight(8, 8))
    turned = b.node("Concat", b.node("Neg", x), x, axis=-1)
    turned = b.node("Slice", turned, b.value([0]), b.value([8]), b.value([-1]))
    turned = b.node("Add", b.node("Mul", x, b.weight(8)), b.node("Mul", turned, b.weight(8)))
    b.node("MatMul", turned, b.weight(8, 3), outputs=["y"])
    assert not found(b.model({"x": ["n", 8]}, {"y": ["n", 3]})).all()


def test_a_block_around_others_has_a_name_of_its_own() -> None:
    b = models.Builder()
    x = b.node("Conv", "x", b.weight(8, 3, 3, 3), pads=[1] * 4)
    y = b.node("Conv", x, b.weight(8, 8, 3, 3), pads=[1] * 4)
    for _ in range(2):
        y = b.node("Add", y, b.node("Conv", y, b.weight(8, 8, 3, 3), pads=[1] * 4))
    b.node("Conv", b.node("Add", x, y), b.weight(3, 8, 1, 1), outputs=["y"])
    blocks = found(b.model({"x": ["n", 3, 8, 8]}, {"y": ["n", 3, 8, 8]}))
    assert [block.name for block in blocks.all()] == ["layer0", "layer1", "outer0"]
    assert blocks.layers[0].nodes < blocks.outer[0].nodes


def test_dense_connections_are_no_blocks() -> None:
    b = models.Builder()
    x = b.node("Conv", "x", b.weight(8, 3, 3, 3), pads=[1] * 4)
    y = b.node("Concat", x, b.node("Conv", x, b.weight(8, 8, 3, 3), pads=[1] * 4), axis=1)
    b.node("Conv", y, b.weight(3, 16, 1, 1), outputs=["y"])
    assert not found(b.model({"x": ["n", 3, 8, 8]}, {"y": ["n", 3, 8, 8]})).all()
