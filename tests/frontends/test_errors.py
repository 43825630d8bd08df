"""Files that cannot be read are refused in one sentence that says what to do."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper, parser

from pruneopt.errors import PruneoptError
from pruneopt.model import Model

SMALL = '<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] y) { y = Relu(x) }'


def refusal(path: Path) -> str:
    with pytest.raises(PruneoptError) as caught:
        Model.load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def written(path: Path, proto: onnx.ModelProto) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"just some text\nand more of it\n", "is not an ONNX model"),
        (b"\x80\x04\x95" + bytes(range(256)), "is not an ONNX model"),
        (b"\x08\x08", "holds no graph"),
        (parser.parse_model(SMALL).SerializeToString()[:-3], "is cut short"),
    ],
)
def test_what_is_no_model(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    assert reason in refusal(path)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [2000], b"1234" * 2000, raw=True)
    proto = parser.parse_model(SMALL.replace("Relu(x)", "Add(x, w)").replace("[2]", "[2000]"))
    proto.graph.initializer.append(tensor)
    proto.metadata_props.add(key="k", value="v")
    whole = proto.SerializeToString()
    path = tmp_path / "m.onnx"
    for length in (*range(1, 120), 4000, len(whole) - 60, len(whole) - 20):
        path.write_bytes(whole[:length])
        refusal(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "no.onnx")
    assert "is a folder" in refusal(tmp_path)


@pytest.mark.parametrize("opset", [1, 8, 26, 99])
def test_opsets_outside_the_range(tmp_path: Path, opset: int) -> None:
    path = written(tmp_path / "m.onnx", parser.parse_model(SMALL.replace("17", str(opset))))
    assert f"uses opset {opset}, pruneopt reads 9 to 25" in refusal(path)


def test_newer_ir(tmp_path: Path) -> None:
    path = written(tmp_path / "m.onnx", parser.parse_model(SMALL.replace("8", "99", 1)))
    assert "IR version 99" in refusal(path)


def test_no_nodes(tmp_path: Path) -> None:
    proto = parser.parse_model(SMALL)
    del proto.graph.node[:]
    assert "has no nodes" in refusal(written(tmp_path / "m.onnx", proto))


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("Relu(x)", "Relu(z)", "not valid ONNX: Nodes in a graph must be topologically sorted"),
        ('"" : 17', '"other" : 1', "not valid ONNX: No opset import for domain"),
    ],
)
def test_invalid_graphs(tmp_path: Path, old: str, new: str, reason: str) -> None:
    assert reason in refusal(written(tmp_path / "m.onnx", parser.parse_model(SMALL.replace(old, new))))


def test_weight_of_the_wrong_size(tmp_path: Path) -> None:
    proto = parser.parse_model(SMALL.replace("Relu(x)", "Add(x, w)"))
    proto.graph.initializer.add(name="w", data_type=1, dims=[2], raw_data=b"1234")
    message = refusal(written(tmp_path / "m.onnx", proto))
    assert "weight 'w' holds 4 bytes, but its shape [2] and type need 8" in message


def test_function_that_cannot_be_inlined(tmp_path: Path) -> None:
    proto = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17, "l" : 1]> g (float[2] x) => (float[2] y) { y = l.f(x) }'
        '<domain: "l", opset_import: ["" : 17, "l" : 1]> f (a) => (b) { b = l.f(a) }'
    )
    assert "function" in refusal(written(tmp_path / "m.onnx", proto))


def test_ops_that_a_runtime_puts_into_the_default_domain_are_read() -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[n,4] x, float[4] s) => (float[n,4] y)'
    proto = parser.parse_model(text + " { y = SimplifiedLayerNormalization <axis = -1> (x, s) }")
    assert [n.op for n in Model.from_proto(proto).graph.nodes] == ["SimplifiedLayerNormalization"]
