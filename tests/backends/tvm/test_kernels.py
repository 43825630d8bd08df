"""Kernels from zeros to ONNX Runtime: what is found, what is packed, what runs, what is refused."""

from __future__ import annotations

import ctypes
import json
import random
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

pytest.importorskip("tvm", reason="sparse kernels are compiled by TVM")

from pruneopt.backends.ort import Session
from pruneopt.backends.tvm.candidates import blocks, candidates
from pruneopt.backends.tvm.compiler import Plan
from pruneopt.backends.tvm.fallback import INPUTS, function
from pruneopt.backends.tvm.layer import Image, Layer, Schedule
from pruneopt.backends.tvm.library import build
from pruneopt.backends.tvm.packing import order, pack
from pruneopt.backends.tvm.records import Records
from pruneopt.backends.tvm.rewriting import rewrite
from pruneopt.backends.tvm.sites import find
from pruneopt.backends.tvm.target import parse
from pruneopt.backends.tvm.tuner import Best
from pruneopt.backends.tvm.tuning import Group, gated
from pruneopt.backends.tvm.whole import opened
from pruneopt.errors import PruneoptError, UsageError
from pruneopt.model import Model
from pruneopt.runtime import session
from pruneopt.tune import tune
from tests.backends.tvm.guarded import failures, random_layer, random_schedule, random_weight, reference

RNG = np.random.default_rng(3)


def sparse(shape: tuple[int, ...], block: int, density: float) -> Any:
    """A weight [outputs, ...] of which blocks of outputs share their zeros."""
    kept = RNG.random((-(-shape[0] // block), *shape[1:])) < density
    return np.asarray(RNG.standard_normal(shape) * np.repeat(kept, block, 0)[: shape[0]], np.float32)


def model(text: str, **weights: Any) -> Model:
    """A model in ONNX's text, with initializers."""
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> g {text}')
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(w, name) for name, w in weights.items())
    return Model.from_proto(proto)


def perceptron() -> Model:
    """Rows of any number: blocks of 16, then zeros anywhere, bias and activation in between."""
    return model(
        "(float[b, t, 96] x) => (float[b, t, 40] y) "
        "{ h = MatMul(x, v) i = Add(h, c) j = Relu(i) k = MatMul(j, w) y = Add(k, d) }",
        v=np.ascontiguousarray(sparse((128, 96), 16, 0.2).T),
        w=np.ascontiguousarray(sparse((40, 128), 1, 0.2).T),
        c=RNG.standard_normal(128).astype(np.float32),
        d=RNG.standard_normal(40).astype(np.float32),
    )


def convolutional() -> Model:
    """Images of any number: pointwise, strided and grouped."""
    return model(
        "(float[b, 16, 14, 14] x) => (float[b, 48, 7, 7] y) { h = Conv(x, p) i = Clip(h, lo, hi) "
        "y = Conv <group = 2, pads = [1, 1, 1, 1], strides = [2, 2]> (i, q, e) }",
        p=sparse((64, 16, 1, 1), 1, 0.3),
        q=sparse((48, 32, 3, 3), 1, 0.2),
        e=RNG.standard_normal(48).astype(np.float32),
        lo=np.float32(0),
        hi=np.float32(6),
    )


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


def test_the_fallback_runs_without_the_library_and_gives_way_to_it(tmp_path: Path) -> None:
    dense = perceptron()
    out = tmp_path / "out.onnx"
    options: dict[str, Any] = {"trials": 1, "sizes": {"t": 20}, "gate": False, "cache": tmp_path / "records"}
    tune(dense, out, fallback=True, **options)
    x = RNG.standard_normal((2, 3, 96)).astype(np.float32)
    wanted = Session(dense).run({"x": x})["y"]
    alone = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(alone.run(None, {"x": x})[0], wanted, rtol=1e-5, atol=1e-5)
    profile = onnxruntime.SessionOptions()
    profile.enable_profiling = True
    profile.profile_file_prefix = str(tmp_path / "profile")
    opened = session(out, profile)
    np.testing.assert_allclose(opened.run(None, {"x": x})[0], wanted, rtol=1e-4, atol=1e-4)
    ran = {
        event["args"]["op_name"]
        for event in json.loads(Path(opened.end_profiling()).read_text())
        if "op_name" in event.get("args", {})
    }
    assert all(name.startswith("sparse_") for name in ran)


@pytest.mark.parametrize("number", range(12))
def test_the_fallback_of_random_kernels_is_what_they_compute(number: int) -> None:
    rng = random.Random(number)
    layer = random_layer(rng)
    plan = Plan(layer, random_schedule(rng, layer), 8)
    data = np.random.default_rng(number)
    weight = random_weight(data, layer, plan.schedule.block)
    bias = data.standard_normal(layer.groups * layer.outputs).astype(np.float32)
    packed = pack(weight, bias, layer, plan.schedule, plan.places())
    image = layer.image
    shape = (3, layer.groups * layer.channels, *image.size) if image else (3, layer.inputs)
    x = data.standard_normal(shape).astype(np.float32)
    node = onnx.helper.make_node(plan.name, list(INPUTS), ["y"], domain="pruneopt")
    arrays = {
        "values": packed.values,
        "offsets": packed.offsets,
        "starts": packed.starts,
        "bias": packed.bias,
    }
    ends = [
        onnx.helper.make_tensor_value_info("x", 1, shape),
        onnx.helper.make_tensor_value_info("y", 1, None),
    ]
    stored = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = onnx.helper.make_graph([node], "g", ends[:1], ends[1:], stored)
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("pruneopt", 1)]
    made = onnx.helper.make_model(
        graph, functions=[function("pruneopt", plan, 17)], opset_imports=opsets, ir_version=8
    )
    alone = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    wanted = reference(x, weight, bias, layer)
    error = np.abs(alone.run(None, {"x": x})[0] - wanted).max() / max(1.0, np.abs(wanted).max())
    assert error < 1e-5


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


def test_images(tmp_path: Path) -> None:
    dense = convolutional()
    report = tune(dense, tmp_path / "out.onnx", trials=1, gate=False, cache=tmp_path / "records", threads=2)
    assert sum(len(row["layers"]) for row in report["kernels"]) == 2
    for batch in (1, 3):
        x = RNG.standard_normal((batch, 16, 14, 14)).astype(np.float32)
        found = session(tmp_path / "out.onnx").run(None, {"x": x})[0]
        np.testing.assert_allclose(found, Session(dense).run({"x": x})["y"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_whole_model_without_onnxruntime(tmp_path: Path, threads: int) -> None:
    for number, (dense, shape) in enumerate(
        ((perceptron(), (2, 20, 96)), (convolutional(), (2, 16, 14, 14)))
    ):
        x = RNG.standard_normal(shape).astype(np.float32)
        out = tmp_path / f"{number}.so"
        tune(dense, out, trials=1, calib=[{"x": x}], threads=threads, cache=tmp_path / "records")
        found = opened(out, threads)([x])[0]
        np.testing.assert_allclose(found, Session(dense).run({"x": x})["y"], rtol=1e-4, atol=1e-4)


def test_the_gate_measures_another_pattern_again(tmp_path: Path) -> None:
    """Verdicts hold for the same nodes, kernels and sizes, but not for zeros that lie elsewhere."""
    weights = {block: np.ascontiguousarray(sparse((128, 96), block, 0.2).T) for block in (16, 1)}
    raced = []

    def ratio(a: Model, b: Model) -> float:
        raced.append(1)
        return 2.0

    records, goal = Records(tmp_path / "r"), parse("host")
    for weight in (weights[16], weights[16], weights[1]):
        net = model("(float[n, 96] x) => (float[n, 128] y) { y = MatMul(x, w) }", w=weight)
        group = Group(find(net.graph, {})[0], Best(Schedule("positions", 1, 16, 1), 1.0, 1))
        gated(net, [group], goal, records, "here", ratio)
    assert len(raced) == 2


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


def test_a_model_without_zeros_is_refused(tmp_path: Path) -> None:
    dense = model(
        "(float[n, 64] x) => (float[n, 64] y) { y = MatMul(x, w) }", w=np.ones((64, 64), np.float32)
    )
    with pytest.raises(PruneoptError, match="prune with --sparsity first"):
        tune(dense, tmp_path / "out.onnx", cache=tmp_path / "records")


@pytest.mark.parametrize(("block", "wanted"), [(1, [1]), (8, [8, 4]), (16, [16, 8])])
def test_the_pattern_is_read_off_the_zeros(block: int, wanted: list[int]) -> None:
    assert blocks(sparse((64, 50), block, 0.3)[None]) == wanted


def test_packing_keeps_every_entry() -> None:
    layer, schedule = Layer(40, 30), Schedule("positions", 4, 16, 1, depth=16, span=3)
    weight = sparse((30, 40), 4, 0.3)
    packed = pack(weight[None], None, layer, schedule, Plan(layer, schedule, 4).places())
    cut = order(layer, schedule)
    assert np.count_nonzero(packed.values) == np.count_nonzero(weight)
    assert packed.starts[cut.segments] == len(packed.values)
    counts = np.diff(packed.starts[: cut.segments + 1]).reshape(-1, cut.span)
    assert (np.diff(counts, axis=1) <= 0).all()


def test_mixed_blocks_store_nothing_but_non_zeros() -> None:
    layer, schedule = Layer(40, 30), Schedule("positions", 4, 16, 1, mixed=True)
    weight = sparse((30, 40), 1, 0.3)
    packed = pack(weight[None], None, layer, schedule, Plan(layer, schedule, 4).places())
    np.testing.assert_array_equal(np.sort(packed.values), np.sort(weight[weight != 0]))
    assert len(packed.offsets) < len(packed.values)


def test_candidates_are_few_and_the_same_each_time() -> None:
    first = candidates(Layer(384, 384), [16, 8], 128, 16, 10)
    assert len(first) == 10
    assert first == candidates(Layer(384, 384), [16, 8], 128, 16, 10)


@pytest.mark.parametrize(
    "layer", [Layer(40, 40), Layer(360, 40, 1, Image((8, 8), (8, 8), (3, 3), (1, 1), (1, 1)))]
)
def test_a_weight_of_zeros_alone_has_candidates(layer: Layer) -> None:
    assert candidates(layer, blocks(np.zeros((1, layer.outputs, layer.inputs), np.float32)), 4, 16, 3, 0.0)


def test_records_outlive_an_interruption(tmp_path: Path) -> None:
    from pruneopt.backends.tvm.measure import Trial, Work
    from pruneopt.backends.tvm.tuner import tune as search

    class Interrupted(Trial):
        made = 0

        def __init__(self, *arguments: Any) -> None:
            if Interrupted.made == 2:
                raise KeyboardInterrupt
            Interrupted.made += 1
            super().__init__(*arguments)

    class Counted(Trial):
        made = 0

        def __init__(self, *arguments: Any) -> None:
            Counted.made += 1
            super().__init__(*arguments)

    work, goal = Work(sparse((32, 32), 16, 0.3)[None], 8), parse("host")
    with pytest.raises(KeyboardInterrupt):
        search(Layer(32, 32), work, goal, Records(tmp_path / "r"), 4, trial=Interrupted)
    search(Layer(32, 32), work, goal, Records(tmp_path / "r"), 4, trial=Counted)
    assert Counted.made <= 4
    Counted.made = 0
    search(Layer(32, 32), work, goal, Records(tmp_path / "r"), 4, trial=Counted)
    assert Counted.made == 0


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
