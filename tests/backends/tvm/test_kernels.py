"""Kernels from zeros to ONNX Runtime: what is found, what is packed, what runs, what is refused."""

from __future__ import annotations

import ctypes
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest

pytest.importorskip("tvm", reason="sparse kernels are compiled by TVM")

from pruneopt.backends.ort import Observer
from pruneopt.backends.session import Session
from pruneopt.backends.tvm.compiler import Plan
from pruneopt.backends.tvm.layer import Layer, Schedule
from pruneopt.backends.tvm.library import build
from pruneopt.backends.tvm.rewriting import rewrite
from pruneopt.backends.tvm.sites import find
from pruneopt.backends.tvm.target import parse
from pruneopt.errors import PruneoptError, UsageError
from pruneopt.model import Model
from pruneopt.runtime import session
from pruneopt.tune import tune
from tests.backends.tvm.guarded import failures
from tests.backends.tvm.nets import RNG, convolutional, model, perceptron, separable, sparse


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Path]:
    """The perceptron, tuned with few trials and without the gate: it is too small to gain."""
    folder = tmp_path_factory.mktemp("tuned")
    dense = perceptron()
    tune(
        dense,
        folder / "out.onnx",
        trials=1,
        sizes={"t": 20},
        gate=False,
        cache=folder / "records",
    )
    return dense, folder / "out.onnx"


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (2, 1), (3, 43), (7, 17), (0, 4)])
def test_one_library_serves_every_batch_and_length(
    written: tuple[Model, Path], shape: tuple[int, int]
) -> None:
    dense, out = written
    x = RNG.standard_normal((*shape, 96)).astype(np.float32)
    found = session(out).run(None, {"x": x})[0]
    np.testing.assert_allclose(found, Session(dense).run({"x": x})["y"], rtol=1e-4, atol=1e-4)


def test_bias_and_activation_are_fused_and_the_file_shrinks(written: tuple[Model, Path]) -> None:
    dense, out = written
    made = onnx.load(out)
    assert [node.domain for node in made.graph.node] == ["pruneopt"] * 2
    assert out.stat().st_size < 0.5 * len(dense.proto().SerializeToString())


def test_many_threads_share_a_session(written: tuple[Model, Path]) -> None:
    dense, out = written
    opened, reference = session(out), Session(dense)
    wrong: list[int] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(125):
            x = rng.standard_normal((1, int(rng.integers(1, 70)), 96)).astype(np.float32)
            if not np.allclose(
                opened.run(None, {"x": x})[0], reference.run({"x": x})["y"], rtol=1e-4, atol=1e-4
            ):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    ("dense", "image", "layers"), [(convolutional(), (16, 14, 14), 2), (separable(), (8, 15, 14), 3)]
)
def test_images(tmp_path: Path, dense: Model, image: tuple[int, ...], layers: int) -> None:
    report = tune(dense, tmp_path / "out.onnx", trials=1, gate=False, cache=tmp_path / "records", threads=2)
    assert sum(len(row["layers"]) for row in report["kernels"]) == layers
    for batch in (1, 3):
        x = RNG.standard_normal((batch, *image)).astype(np.float32)
        found = session(tmp_path / "out.onnx").run(None, {"x": x})[0]
        np.testing.assert_allclose(found, Session(dense).run({"x": x})["y"], rtol=1e-4, atol=1e-4)


def test_random_kernels_stay_within_their_buffers() -> None:
    assert not list(failures(parse("host"), 30, 1))


def test_another_input_is_refused(written: tuple[Model, Path]) -> None:
    proto = onnx.load(written[1])
    del proto.graph.input[0].type.tensor_type.shape.dim[:]
    opened = written[1].with_name("open.onnx")
    onnx.save(proto, opened)
    library = written[1].with_name("out.kernels.so")
    with pytest.raises(Exception, match="compiled for inputs of another shape"):
        session(opened, library=library).run(None, {"x": np.ones((2, 95), np.float32)})


def test_a_library_of_another_model_is_refused(written: tuple[Model, Path]) -> None:
    proto = onnx.load(written[1])
    proto.graph.node[0].op_type = "sparse_000000000000"
    onnx.save(proto, written[1].with_name("other.onnx"))
    with pytest.raises(PruneoptError, match="not of the same `pruneopt tune`"):
        session(written[1].with_name("other.onnx"), library=written[1].with_name("out.kernels.so"))


def test_a_processor_without_the_features_is_refused(written: tuple[Model, Path]) -> None:
    """No processor has bit 31 of leaf 1's ECX set outside a virtual machine; a leaf that is not there has none."""
    import dataclasses

    from pruneopt.backends.tvm import library, target

    goal = dataclasses.replace(parse("host"), features=frozenset({"future"}))
    path = written[1].with_name("future.kernels.so")
    plan = Plan(Layer(16, 16), Schedule("outputs", 8, 1, 1), 8)
    target.CPUID["future"] = (0x50000000, 0, "b", 0)
    try:
        library.build([plan], goal, 1, path)
    finally:
        del target.CPUID["future"]
    with pytest.raises(PruneoptError, match="a processor with future, which this one lacks"):
        session(written[1], library=path)


def test_a_missing_library_is_named(written: tuple[Model, Path]) -> None:
    with pytest.raises(PruneoptError, match=r"gone\.so is missing"):
        session(written[1], library="gone.so")


def test_the_library_needs_libc_alone(written: tuple[Model, Path]) -> None:
    library = ctypes.CDLL(str(written[1].with_name("out.kernels.so")), mode=ctypes.RTLD_LOCAL)
    library.pruneopt_kernels_version.restype = ctypes.c_char_p
    assert library.pruneopt_kernels_version()


def test_what_cannot_be_computed_is_left_with_a_reason() -> None:
    made = model(
        "(float[8, 64, 32] x, float[1, 32, h, w] z) => (float[8, 64, 64] y, float[1, 32, a, b] c) "
        "{ y = MatMul(x, s) c = Conv <pads = [1, 1, 1, 1]> (z, k) }",
        s=sparse((8, 32, 64), 1, 0.1),
        k=sparse((32, 32, 3, 3), 1, 0.1),
    )
    found, left = find(made.graph, {"z": [(1, 32, 8, 8), (1, 32, 9, 9)], "c": [(1, 32, 8, 8), (1, 32, 9, 9)]})
    assert not found
    assert sorted(left.values()) == [
        "the height and width of its input are not fixed",
        "the weight is a stack of matrices",
    ]


def test_depthwise_convolutions_are_found_beside_sparse_layers_alone() -> None:
    made = separable()
    shapes, _ = Observer(made).run({"x": np.ones((1, 8, 15, 14), np.float32)})
    found, left = find(made.graph, {name: [shape] for name, shape in shapes.items()})
    assert [site.node.outputs[0].name for site in found] == ["h", "j", "y"]
    assert [site.sparse for site in found] == [True, False, True]
    assert not left


def test_a_model_without_zeros_is_refused(tmp_path: Path) -> None:
    dense = model(
        "(float[n, 64] x) => (float[n, 64] y) { y = MatMul(x, w) }", w=np.ones((64, 64), np.float32)
    )
    with pytest.raises(PruneoptError, match="prune with --sparsity first"):
        tune(dense, tmp_path / "out.onnx", cache=tmp_path / "records")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("llvm -mcpu", "not of the form"),
        ("", "empty"),
        ("cuda", "cannot compile for cuda|no sparse kernels"),
        ("llvm -mtriple=none-none -mcpu=nothing", "does not know"),
    ],
)
def test_wrong_targets_are_named(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        parse(text)


def test_other_processors_compile(tmp_path: Path) -> None:
    pytest.importorskip("ziglang")
    goal = parse("llvm -mtriple=aarch64-linux-gnu -mattr=+neon")
    plan = Plan(Layer(48, 32), Schedule("positions", 1, 16, 2), goal.lanes)
    build([plan], goal, 1, tmp_path / "arm.so")
    assert (tmp_path / "arm.so").read_bytes()[18] == 183  # ELF's number for AArch64


def test_rewriting_leaves_the_model_alone() -> None:
    dense = perceptron()
    before = dense.proto().SerializeToString()
    sites, _ = find(dense.graph, {})
    rewrite(dense, {s.y.name: (s, Plan(s.layer, Schedule("positions", 1, 16, 1), 4)) for s in sites})
    assert dense.proto().SerializeToString() == before
