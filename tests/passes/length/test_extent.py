"""Smaller inputs: equal to the architecture built for them, or refused with what holds on to the size."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import pruneopt as po
from pruneopt.errors import PruneoptError, UsageError
from pruneopt.model import Model
from pruneopt.passes.length.extent.matrices import cubic, first, linear, padded, sampled
from pruneopt.passes.spec import parse_passes
from tests.models import Builder, halved

Array = npt.NDArray[Any]
WIDTH = 32


def run(proto: onnx.ModelProto, x: Array) -> Array:
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    found: Array = session.run(None, {session.get_inputs()[0].name: x})[0]
    return found


def resized(x: Array, sizes: list[int], **attributes: Any) -> Array:
    """What the runtime's own Resize makes of an array."""
    node = helper.make_node("Resize", ["x", "", "", "s"], ["y"], **attributes)
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("x", "y")]
    weights = [numpy_helper.from_array(np.array(sizes, np.int64), "s")]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], weights)
    return run(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), x)


def smaller(proto: onnx.ModelProto, spec: str) -> po.Result:
    return po.prune(Model.from_proto(proto), passes=spec, timed=False)


def images(*shape: int) -> Array:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def shrunk(x: Array, size: int) -> Array:
    """Images as the rewritten models see them."""
    rows, columns = (linear(n, size).astype(np.float32) for n in x.shape[2:])
    found: Array = rows @ x @ columns.T
    return found


@pytest.mark.parametrize(("old", "new"), [(14, 10), (7, 5), (16, 12), (24, 24), (10, 14)])
def test_positions_are_interpolated_as_the_runtimes_resize_does(old: int, new: int) -> None:
    x = images(1, 1, 3, old)
    tall = resized(x, [1, 1, 3, new], mode="cubic", cubic_coeff_a=-0.75)
    np.testing.assert_allclose(x @ cubic(old, new).T, tall, atol=1e-5)


def test_images_are_resized_as_pytorch_does_with_antialiasing() -> None:
    expected = np.zeros((4, 16))
    expected[0, :2], expected[1, 1:3] = (0.7, 0.3), (0.5, 0.5)
    expected[2, 2:5], expected[3, 3:6] = (3 / 11, 7 / 11, 1 / 11), (1 / 11, 7 / 11, 3 / 11)
    np.testing.assert_allclose(linear(16, 12)[:4], expected, atol=1e-12)


def test_frames_are_sampled_evenly_and_sequences_cut() -> None:
    assert sampled(8, 4).argmax(1).tolist() == [1, 3, 5, 7]
    assert first(5, 3).argmax(1).tolist() == [0, 1, 2]
    np.testing.assert_array_equal(padded(3, 5) @ np.arange(1, 4), [1, 2, 3, 0, 0])


def cnn(size: int | None, head: str = "mean", dims: int = 2) -> onnx.ModelProto:
    """Strided and residual convolutions, an upsampling branch, and a head."""
    b = Builder(seed=2)
    pads: dict[str, Any]
    twos: dict[str, Any]
    pads, twos = {"pads": [1] * 2 * dims}, {"strides": [2] * dims}
    x = b.node("Relu", b.node("Conv", "x", b.weight(WIDTH, 3, *[3] * dims), **pads, **twos))
    y = b.node("MaxPool", x, kernel_shape=[2] * dims, **twos)
    y = b.node("Relu", b.node("Conv", y, b.weight(WIDTH, WIDTH, *[3] * dims), **pads))
    scales = b.value([1, 1, *[2] * dims], np.float32)
    x = b.node("Add", x, b.node("Resize", y, "", scales, mode="nearest"))
    places: list[Any] = [size if size else f"s{i}" for i in range(dims)]
    if head == "dense":
        b.node("Conv", x, b.weight(4, WIDTH, *[1] * dims), outputs=["y"])
        half = [n // 2 if isinstance(n, int) else None for n in places]
        return b.model({"x": ["b", 3, *places]}, {"y": ["b", 4, *half]})
    if head == "pool":  # a window over everything, as older exports have it
        kernel = [size // 2] * dims if size else [1] * dims
        x = b.node("Flatten", b.node("AveragePool", x, kernel_shape=kernel))
    elif head == "mean":
        x = b.node("ReduceMean", x, axes=list(range(2, 2 + dims)), keepdims=0)
    else:
        x = b.node("Flatten", x)
        b.node("MatMul", x, b.weight(WIDTH * (size or 0) ** dims // 2**dims, 5), outputs=["y"])
        return b.model({"x": ["b", 3, *places]}, {"y": ["b", 5]})
    b.node("MatMul", x, b.weight(WIDTH, 5), outputs=["y"])
    return b.model({"x": ["b", 3, *places]}, {"y": ["b", 5]})


@pytest.mark.parametrize("head", ["mean", "pool"])
def test_a_cnn_is_the_one_for_any_size_at_the_smaller_one(head: str) -> None:
    x = images(2, 3, 32, 32)
    result = smaller(cnn(32, head), "length{resolution=0.75}")
    small = shrunk(x, 24)
    expected = run(cnn(None, "mean"), small)
    np.testing.assert_allclose(run(result.model.proto(), x), expected, rtol=1e-4, atol=1e-5)
    assert result.report["output"]["macs"] < 0.75 * result.report["input"]["macs"]


def vit(size: int, table: Array) -> onnx.ModelProto:
    """Patches of 4 x 4, a class token, positions, one attention, a feed-forward part; sizes are literals."""
    b = Builder(seed=4)
    side = size // 4
    tokens = side**2 + 1
    x = b.node("Conv", "x", b.weight(WIDTH, 3, 4, 4), strides=[4, 4])
    x = b.node("Transpose", b.node("Reshape", x, b.value([-1, WIDTH, side**2])), perm=[0, 2, 1])
    batch = b.node("Slice", b.node("Shape", "x"), b.value([0]), b.value([1]))
    one = b.node("Expand", b.weight(1, 1, WIDTH), b.node("Concat", batch, b.value([1, WIDTH]), axis=0))
    x = b.node("Add", b.node("Concat", one, x, axis=1), b.value(table, np.float32))
    heads = b.value([-1, tokens, 2, WIDTH // 2])
    q, k, v = (
        b.node("Transpose", b.node("Reshape", b.node("MatMul", x, b.weight(WIDTH, WIDTH)), heads), perm=perm)
        for perm in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
    )
    mixed = b.node("MatMul", b.node("Softmax", b.node("MatMul", q, k), axis=-1), v)
    mixed = b.node("Reshape", b.node("Transpose", mixed, perm=[0, 2, 1, 3]), b.value([-1, tokens, WIDTH]))
    x = b.node("Add", x, b.node("MatMul", mixed, b.weight(WIDTH, WIDTH)))
    first_ = b.node("Gather", x, b.value(0), axis=1)
    b.node("MatMul", first_, b.weight(WIDTH, 5), outputs=["y"])
    return b.model({"x": ["b", 3, size, size]}, {"y": ["b", 5]})


def test_a_transformer_is_the_one_built_for_the_smaller_size_with_its_positions_interpolated() -> None:
    x, table = images(2, 3, 32, 32), images(1, 65, WIDTH)
    result = smaller(vit(32, table), "length{resolution=0.75}")
    grid = table[:, 1:].reshape(1, 8, 8, WIDTH).transpose(0, 3, 1, 2)
    grid = resized(grid, [1, WIDTH, 6, 6], mode="cubic", cubic_coeff_a=-0.75)
    fewer = np.concatenate([table[:, :1], grid.reshape(1, WIDTH, 36).transpose(0, 2, 1)], 1)
    small = shrunk(x, 24)
    expected = run(vit(24, fewer), small)
    np.testing.assert_allclose(run(result.model.proto(), x), expected, rtol=1e-4, atol=1e-5)
    assert result.report["equivalence"]["max_rel_error"] < 1e-5


def test_sizes_that_patches_divide_are_taken() -> None:
    entry = smaller(vit(32, images(1, 65, WIDTH)), "length{resolution=0.7}").report["passes"][1]
    assert [each["size"] for each in entry["inputs"]] == [[32, 20], [32, 20]]


def test_dense_outputs_keep_their_size() -> None:
    proto = cnn(32, "dense")
    result = smaller(proto, "length{resolution=0.75}")
    assert run(result.model.proto(), images(2, 3, 32, 32)).shape == (2, 4, 16, 16)


def test_a_node_may_be_called_as_an_output_is() -> None:
    """As in files that come from TensorFlow Lite."""
    proto = cnn(32, "dense")
    proto.graph.node[0].name = "y"
    assert run(smaller(proto, "length{resolution=0.75}").model.proto(), images(2, 3, 32, 32)).size


def test_with_leave_the_inputs_become_smaller_and_that_is_said() -> None:
    proto, x = cnn(32, "dense"), images(2, 3, 24, 24)
    result = smaller(proto, "length{resolution=0.75, inputs=true}")
    assert [t.shape for t in result.model.inputs] == [["b", 3, 24, 24]]
    assert next(p["signature"] for p in result.report["passes"] if "signature" in p) == ["x", "y"]
    np.testing.assert_allclose(run(result.model.proto(), x), run(cnn(None, "dense"), x), rtol=1e-4, atol=1e-5)


def test_frames_and_resolution_of_a_volume() -> None:
    proto = cnn(16, dims=3)
    result = smaller(proto, "length{frames=0.5, resolution=0.75, inputs=true}")
    assert [t.shape for t in result.model.inputs] == [["b", 3, 8, 12, 12]]
    x = images(1, 3, 8, 12, 12)
    np.testing.assert_allclose(run(result.model.proto(), x), run(cnn(None, dims=3), x), rtol=1e-4, atol=1e-5)


def text(tokens: int, table: Array) -> onnx.ModelProto:
    """Token ids, positions, a mean over tokens."""
    b = Builder(seed=5)
    x = b.node("Add", b.node("Gather", b.weight(50, WIDTH), "ids"), b.value(table, np.float32))
    x = b.node(
        "Relu", b.node("MatMul", b.node("Reshape", x, b.value([-1, tokens, WIDTH])), b.weight(WIDTH, 32))
    )
    b.node("ReduceMean", x, axes=[1], keepdims=0, outputs=["y"])
    proto = b.model({"ids": ["b", tokens]}, {"y": ["b", 32]})
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    return proto


def test_a_text_is_cut_and_so_are_its_positions() -> None:
    table = images(1, 12, WIDTH)
    ids = np.random.default_rng(0).integers(0, 50, (3, 12))
    result = smaller(text(12, table), "length{sequence=0.5}")
    expected = run(text(6, table[:, :6]), ids[:, :6])
    np.testing.assert_allclose(run(result.model.proto(), ids), expected, rtol=1e-5, atol=1e-6)


def test_a_budget_finds_the_largest_size_that_meets_it() -> None:
    result = smaller(cnn(32), "length{macs=0.6, method=resolution}")
    kept = result.report["output"]["macs"] / result.report["input"]["macs"]
    assert 0.5 < kept <= 0.6


@pytest.mark.parametrize(
    ("proto", "spec", "why"),
    [
        (cnn(32, "flat"), "length{resolution=0.75}", r"the weight 'w\d+' is made for"),
        (cnn(None), "length{resolution=0.75}", "may have any resolution"),
        (cnn(32), "length{frames=0.5}", "no input has a frames"),
        (cnn(32), "length{macs=0.0001, method=resolution}", "meets the budget"),
    ],
)
def test_what_holds_on_to_its_size_is_refused_with_the_reason(
    proto: onnx.ModelProto, spec: str, why: str
) -> None:
    with pytest.raises(PruneoptError, match=why):
        smaller(proto, spec)


def biased(size: int, table: Array, bias: Array) -> onnx.ModelProto:
    """The transformer with a bias added to its scores, [1, heads, tokens, tokens]."""
    proto = vit(size, table)
    softmax = next(n for n in proto.graph.node if n.op_type == "Softmax")
    proto.graph.initializer.append(numpy_helper.from_array(bias, "bias"))
    node = helper.make_node("Add", [softmax.input[0], "bias"], ["biased"], name="biasing")
    proto.graph.node.insert(list(proto.graph.node).index(softmax), node)
    next(n for n in proto.graph.node if n.op_type == "Softmax").input[0] = "biased"
    return proto


def relative(table: Array, side: int) -> Array:
    """A bias by distance, [1, heads, tokens, tokens], with a class token in front that has one of its own."""
    found = np.full((1, len(table), side**2 + 1, side**2 + 1), 0.25, np.float32)
    for a in range(side**2):
        for b in range(side**2):
            apart = a // side - b // side + side - 1, a % side - b % side + side - 1
            found[0, :, a + 1, b + 1] = table[:, apart[0], apart[1]]
    return found


def test_a_bias_by_distance_is_that_of_the_interpolated_table() -> None:
    x, places, table = images(2, 3, 32, 32), images(1, 65, WIDTH), images(2, 15, 15)
    result = smaller(biased(32, places, relative(table, 8)), "length{resolution=0.75}")
    small = resized(table[None], [1, 2, 11, 11], mode="cubic", cubic_coeff_a=-0.75)[0]
    grid = resized(
        places[:, 1:].reshape(1, 8, 8, WIDTH).transpose(0, 3, 1, 2),
        [1, WIDTH, 6, 6],
        mode="cubic",
        cubic_coeff_a=-0.75,
    )
    fewer = np.concatenate([places[:, :1], grid.reshape(1, WIDTH, 36).transpose(0, 2, 1)], 1)
    expected = run(biased(24, fewer, relative(small, 6)), shrunk(x, 24))
    np.testing.assert_allclose(run(result.model.proto(), x), expected, rtol=1e-4, atol=1e-5)


def test_another_bias_between_pairs_of_places_is_refused() -> None:
    with pytest.raises(PruneoptError, match=r"'bias'.*pairs of places"):
        smaller(biased(32, images(1, 65, WIDTH), images(1, 2, 65, 65)), "length{resolution=0.75}")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("length{resolution=1.5}", "not in"),
        ("length{resolution=0.5, left=0.5}", "say how much with one of"),
        ("length{left=0.5, method=resolution}", "takes keep or macs"),
        ("length{left=0.5, inputs=true}", "change inputs"),
    ],
)
def test_what_makes_no_sense_is_refused(spec: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_passes(spec)


def test_half_precision_stays_half() -> None:
    result = smaller(halved(vit(32, images(1, 65, WIDTH))), "length{resolution=0.75}")
    found = run(result.model.proto(), images(2, 3, 32, 32).astype(np.float16))
    assert found.dtype == np.float16
