"""The wire-format reader agrees with protobuf, and refuses what is no message."""

from __future__ import annotations

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from pruneopt.frontends import wire


@given(st.lists(st.sampled_from([0, 1, 4095, 4096, 5000, 20000]), max_size=6), st.booleans())
def test_slim_takes_out_large_raw_data_and_nothing_else(sizes: list[int], extra: bool) -> None:
    tensors = [
        helper.make_tensor(f"w{i}", TensorProto.UINT8, [size], bytes([i]) * size, raw=True)
        for i, size in enumerate(sizes)
    ]
    if extra:
        tensors.insert(0, helper.make_tensor("floats", TensorProto.FLOAT, [3000], [0.5] * 3000))
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [], [], tensors)
    proto = helper.make_model(graph)
    data = proto.SerializeToString()
    message, spans = wire.slim(data)
    slim = onnx.ModelProto.FromString(message)
    assert all(tensor.ByteSize() < wire.LEAVE + 100 or tensor.float_data for tensor in slim.graph.initializer)
    for index, (start, end) in spans.items():
        assert not slim.graph.initializer[index].HasField("raw_data")
        slim.graph.initializer[index].raw_data = data[start:end]
    assert slim == proto


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_value_error(data: bytes) -> None:
    try:
        wire.slim(data)
    except ValueError:
        return


@pytest.mark.parametrize("size", [0, 1, 127, 128, 300, 1 << 14, (1 << 31) + 5])
def test_length_prefix_reads_back(size: int) -> None:
    prefix = wire.length_prefix(7, size)
    assert prefix[0] == 7 << 3 | 2
    assert wire._varint(prefix, 1, len(prefix)) == (size, len(prefix))
