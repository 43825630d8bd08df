"""ONNX Runtime sessions: what goes in and out, what is seen inside, what is said when it does not work."""

import itertools
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest

from pruneopt.backends import turns
from pruneopt.backends.cores import cores
from pruneopt.backends.ort import Observer
from pruneopt.backends.session import Session, shape_key
from pruneopt.backends.turns import interleaved
from pruneopt.errors import PruneoptError, TooLargeError
from pruneopt.model import Model

X = np.arange(6, dtype=np.float32).reshape(2, 3)


def model(text: str) -> Model:
    return Model.from_proto(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}'))


@pytest.fixture
def chain() -> Model:
    return model("g (float[N,3] x) => (float[N,3] y) { a = Abs(x) s = Shape(a) y = Reshape(a, s) }")


def test_outputs_are_the_models_own(chain: Model) -> None:
    assert list(Session(chain).run({"x": -X})) == ["y"]
    np.testing.assert_array_equal(Session(chain).run({"x": -X})["y"], X)


@pytest.mark.parametrize("optimize", [True, False])
def test_intermediates_can_be_named(chain: Model, optimize: bool) -> None:
    found = Session(chain, ["s", "a"], optimize=optimize).run({"x": -X})
    assert list(found) == ["s", "a"]
    np.testing.assert_array_equal(found["a"], X)
    np.testing.assert_array_equal(found["s"], [2, 3])


def test_the_model_is_left_alone(chain: Model) -> None:
    before = chain.proto().SerializeToString()
    Session(chain, ["s"], shapes=["a"])
    assert chain.proto().SerializeToString() == before


def test_sequences_and_strings_come_out() -> None:
    made = model("g (float[N,3] x) => (seq(float[N]) y, string[k] t) { y = SplitToSequence <axis=1> (x) "
                 't = Constant <value_strings = ["a", "b"]> () }')  # fmt: skip
    found = Session(made).run({"x": X})
    assert [part.shape for part in found["y"]] == [(2, 1)] * 3
    assert found["t"].tolist() == ["a", "b"]


def passing(code: int) -> Model:
    """A model that hands on a tensor of element type `code`."""
    nodes = [onnx.helper.make_node("Identity", [a], [b]) for a, b in ("xz", "zy")]
    ends = [onnx.helper.make_tensor_value_info(name, code, ["N", 3]) for name in "xy"]
    graph = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:])
    opset = onnx.helper.make_opsetid("", 19)
    return Model.from_proto(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=9))


NARROW = [(10, np.float16), (16, ml_dtypes.bfloat16), (17, ml_dtypes.float8_e4m3fn)]


@pytest.mark.parametrize(("code", "kind"), NARROW)
def test_narrow_floats_go_in_and_out(code: int, kind: Any) -> None:
    found = Session(passing(code)).run({"x": X.astype(kind)})
    assert found["y"].dtype == kind
    np.testing.assert_array_equal(found["y"].astype(np.float32), X)


@pytest.mark.parametrize(("code", "kind"), NARROW)
def test_narrow_floats_are_observed(code: int, kind: Any) -> None:
    shapes, values = Observer(passing(code), {"z"}).run({"x": X.astype(kind)})
    assert shapes == {"x": (2, 3), "z": (2, 3), "y": (2, 3)}
    np.testing.assert_array_equal(values["z"].astype(np.float32), X)


def test_observer_sees_shapes_and_the_wanted_values(chain: Model) -> None:
    observer = Observer(chain, {"s"})
    for rows in (2, 5):
        shapes, values = observer.run({"x": np.ones((rows, 3), np.float32)})
        assert shapes == {"x": (rows, 3), "a": (rows, 3), "s": (2,), "y": (rows, 3)}
        assert list(values) == ["s"]
        np.testing.assert_array_equal(values["s"], [rows, 3])


def test_observer_passes_over_sequences() -> None:
    made = model("g (float[N,3] x) => (float[a,b] y) { q = SplitToSequence <axis=1> (x) p = Identity(q) "
                 "y = ConcatFromSequence <axis=0> (p) }")  # fmt: skip
    shapes, _ = Observer(made).run({"x": X})
    assert shapes == {"x": (2, 3), "y": (6, 1)}


def test_observer_names_what_it_does_not_find(chain: Model) -> None:
    with pytest.raises(PruneoptError, match="'nothing' is not a tensor"):
        Observer(chain, {"nothing"})


def test_a_model_beyond_one_message_is_run_all_the_same(
    chain: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights are handed over beside the graph: neither one message nor a file is made of them."""

    def proto(self: Model) -> onnx.ModelProto:
        raise TooLargeError

    def save(self: Model, path: Any) -> None:
        raise AssertionError("the model was written to a file")

    monkeypatch.setattr(Model, "save", save)
    monkeypatch.setattr(Model, "proto", proto)
    found = Session(chain, ["a"], shapes=["s"]).run({"x": -X})
    np.testing.assert_array_equal(found["a"], X)
    assert found[shape_key("s")].tolist() == [2]


def test_a_model_that_does_not_load_says_why() -> None:
    made = model("g (bfloat16[3] x) => (bfloat16[3] y) { y = Conv(x, x) }")
    with pytest.raises(PruneoptError, match="could not load the model: ") as caught:
        Session(made)
    assert "\n" not in str(caught.value)


def test_a_run_that_fails_says_why_without_c_plus_plus() -> None:
    made = model("g (float[N] x, float[M] z) => (float[K] y) { y = Add(x, z) }")
    with pytest.raises(PruneoptError, match=r"running Add node.*Attempting to broadcast") as caught:
        Session(made, optimize=False).run({"x": np.ones(2, np.float32), "z": np.ones(3, np.float32)})
    assert ".cc" not in str(caught.value)
    assert "onnxruntime::" not in str(caught.value)


def test_timing_is_relative_to_the_first() -> None:
    sessions = [
        Session(model(f"g (float[N] x) => (float[N] y) {{ a = {op}(x) y = {op}(a) }}"))
        for op in ("Abs", "Erf")
    ]
    feeds = [{"x": np.ones(10, np.float32)}, {"x": np.ones(300_000, np.float32)}]
    small, large = interleaved(sessions, feeds, seconds=0.02)
    assert small.ratio_to_first == 1
    assert small.spread == 0
    assert large.ratio_to_first > 1
    assert large.median_ms > small.median_ms > 0


class Uneven:
    """Takes one of two times, or the same each time."""

    def __init__(self, *times: float) -> None:
        self.times, self.ran, self.now = times, 0, 0.0
        self.clock = lambda: self.now
        self.cores: list[int] = []

    def run(self, _: Any) -> None:
        self.now += self.times[self.ran % len(self.times)]
        self.ran += 1


def test_what_is_not_known_well_is_timed_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()
    monkeypatch.setattr("time.perf_counter", lambda: float(next(ticks)))
    rounds = []
    for second in (Uneven(1.0), Uneven(1.0, 2.0)):
        interleaved([Uneven(1.0), second], [{}, {}], seconds=10.5, min_rounds=0)
        rounds.append(second.ran)
    assert rounds[1] - 1 == turns.PATIENCE * (rounds[0] - 1)  # but for the warm-up


def test_runs_of_several_threads_count_once_these_have_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    now, ran = 0.0, []

    def run() -> None:
        nonlocal now
        ran.append(now)
        now += 2 * quick if now < turns.SETTLED else quick

    quick = turns.BURST / 4
    monkeypatch.setattr("time.perf_counter", lambda: now)
    assert turns.steady(run, lambda: now, []) == pytest.approx(2 * quick)
    assert len(ran) == 1
    now = 0.0
    assert turns.steady(run, lambda: now, cores(1)) == pytest.approx(quick)
    assert sum(start >= turns.SETTLED for start in ran) in (4, 5)


def test_rounds_of_several_threads_that_were_held_up_do_not_count() -> None:
    """Both take longer while processors are apart, and not alike."""
    near, apart = [[1.0 + 0.01 * i, 0.5] for i in range(6)], [[1.6, 1.1]] * 12
    assert turns.calm([*apart, *near]) == near
    assert turns.calm(apart) == apart


GATHERED = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 3] x) => (float[M, 3] y) <int64 two = {2}, bool go = {1}> {
    empty = SequenceEmpty ()
    all = Loop (two, go, empty) <body = body (int64 i, bool c, seq(float[N, 3]) s) => (bool d, seq(float[N, 3]) t) {
        d = Identity (c)
        t = SequenceInsert (s, x)
    }>
    y = ConcatFromSequence <axis = 0> (all)
}"""


def test_a_sequence_that_a_loop_fills_has_no_shape() -> None:
    loop = Model.from_proto(onnx.parser.parse_model(GATHERED))
    shapes, values = Observer(loop, ["y"]).run({"x": np.ones((4, 3), np.float32)})
    assert "all" not in shapes
    assert shapes["y"] == values["y"].shape == (8, 3)
