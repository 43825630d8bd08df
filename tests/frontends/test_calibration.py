"""Feeds: what is drawn for which input, which sizes are tried, and what the user's files must hold."""

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from pruneopt.api import make_context
from pruneopt.errors import PruneoptError
from pruneopt.frontends import dimensions
from pruneopt.frontends.calibration import load_calibration
from pruneopt.frontends.dimensions import Feeds
from pruneopt.frontends.sizes import given_feeds, probe_sizes, working_feeds
from pruneopt.frontends.synthetic import synthetic
from pruneopt.model import Model

FLOAT, UINT8, INT64, STRING, BOOL, BFLOAT16 = 1, 2, 7, 8, 9, 16


def model(text: str) -> Model:
    return Model.from_proto(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}'))


def inputs(*declared: tuple[str, int, list[int | str | None]]) -> Model:
    """A model with these (name, element type, shape) inputs that only counts their elements."""
    infos = [onnx.helper.make_tensor_value_info(*each) for each in declared]
    nodes = [onnx.helper.make_node("Size", [info.name], [f"{info.name}_size"]) for info in infos]
    outputs = [onnx.helper.make_tensor_value_info(f"{info.name}_size", INT64, []) for info in infos]
    graph = onnx.helper.make_graph(nodes, "g", infos, outputs)
    opset = onnx.helper.make_opsetid("", 17)
    return Model.from_proto(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8))


# --- dimensions --------------------------------------------------------------------------------------------


def test_dynamic_dims_go_by_name_or_place() -> None:
    made = inputs(("x", FLOAT, ["batch", 3, None, "?"]), ("m", INT64, ["batch", -1]))
    assert dimensions.dynamic_dims(made) == {
        "batch": [("x", 0), ("m", 0)],
        "x:2": [("x", 2)],
        "x:3": [("x", 3)],
        "m:1": [("m", 1)],
    }


def first(made: Model) -> tuple[dict[str, int], dict[str, int]]:
    return next(probe_sizes(made))


def test_every_dimension_differs_in_the_first_try() -> None:
    made = inputs(("x", FLOAT, ["batch", 3, "height", "width"]), ("ids", INT64, ["batch", "seq"]))
    assert first(made) == (
        {"batch": 2, "height": 64, "width": 128, "seq": 7},
        {"batch": 3, "height": 96, "width": 160, "seq": 48},
    )


def test_a_static_model_has_one_empty_assignment() -> None:
    assert list(probe_sizes(inputs(("x", FLOAT, [2, 3])))) == [({}, {})]


def test_sizes_that_strides_make_one_are_told_apart_by_a_third() -> None:
    made = inputs(("x", FLOAT, ["n", "time"]))

    def frames(feeds: Feeds) -> int:
        return (int(feeds["x"].shape[1]) - 400) // 320 + 1

    def hides(small: Feeds, large: Feeds, third: Feeds) -> bool:
        return frames(small) == frames(large) != frames(third)

    small, large = working_feeds(made, lambda feeds: frames(feeds) > 0, hides=hides)
    assert frames(small) != frames(large)
    assert small["x"].shape[0] != large["x"].shape[0]


def test_real_inputs_serve_where_none_that_is_drawn_does() -> None:
    """Each dimension gets another size where the model runs so, and sums stay sums."""
    made = inputs(
        ("x", FLOAT, ["n", "s"]), ("mask", INT64, ["n", "past + s"]), ("past", FLOAT, ["n", "past"])
    )

    def runs(feeds: Feeds) -> bool:
        if feeds["x"].shape[1] != 6:
            raise PruneoptError("six are expected")
        return bool(feeds["mask"].shape[1] == 6 + feeds["past"].shape[1])

    given = {"x": np.arange(6.0)[None], "mask": np.arange(10)[None], "past": np.arange(4.0)[None]}
    small, large = given_feeds(made, given, runs)
    assert small == given
    assert {name: array.tolist() for name, array in large.items()} == {
        "x": [[0, 1, 2, 3, 4, 5]] * 2,
        "mask": [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]] * 2,
        "past": [[0, 1, 2, 3, 0, 1]] * 2,
    }
    with pytest.raises(PruneoptError, match="first batch of the calibration data: six are expected"):
        given_feeds(made, given | {"x": np.zeros((1, 5))}, runs)


def test_later_tries_hold_back() -> None:
    tries = list(probe_sizes(inputs(("a", FLOAT, ["n", "p", 8]), ("b", FLOAT, ["n", "q", 8]))))
    assert ({"n": 1, "p": 3, "q": 7}, {"n": 1, "p": 5, "q": 9}) in tries
    assert ({"n": 2, "p": 3, "q": 3}, {"n": 3, "p": 5, "q": 5}) in tries
    assert ({"n": 2, "p": 7, "q": 7}, {"n": 3, "p": 7, "q": 7}) in tries
    assert ({"n": 2, "p": 2, "q": 2}, {"n": 3, "p": 3, "q": 3}) in tries
    assert len(tries) < 50
    assert len({str(each) for each in tries}) == len(tries)


def test_signals_of_a_scan_are_long_first() -> None:
    """ONNX Runtime 1.32 ends the process (SIGFPE) where a Scan has nothing to go over: no frame in 7 samples."""
    body = (
        "body = b (float[n] s, float[n, 160] f) => (float[n] t, float[n] u) "
        "{ p = ReduceMax <axes = [1], keepdims = 0> (f) t = Add (s, p) u = Identity (t) }"
    )
    made = model(
        f"g (float[n, samples] x) => (float[n] y) {{ shape = Constant <value = int64[3] {{0, -1, 160}}> () "
        "zero = Constant <value = int64[1] {0}> () one = Constant <value = int64[1] {1}> () "
        "size = Shape <start = 1> (x) hop = Constant <value = int64[1] {160}> () rest = Mod (size, hop) "
        "whole = Sub (size, rest) cut = Slice (x, zero, whole, one) frames = Reshape (cut, shape) "
        "start = ReduceMax <axes = [1], keepdims = 0> (x) "
        f"y, each = Scan <num_scan_inputs = 1, scan_input_axes = [1], {body}> (start, frames) }}"
    )
    assert first(made)[0]["samples"] >= 160
    small, large = make_context(made).feeds
    assert small["x"].shape[1] < large["x"].shape[1]


@pytest.mark.parametrize("total", ["past_sequence_length + sequence_length", "total_sequence_length"])
def test_a_total_is_the_sum_of_its_terms(total: str) -> None:
    made = inputs(
        ("input_ids", INT64, ["batch_size", "sequence_length"]),
        ("attention_mask", INT64, ["batch_size", total]),
        ("past", FLOAT, ["batch_size", 4, "past_sequence_length", 16]),
    )
    for pair in islice(probe_sizes(made), 12):
        for sizes in pair:
            assert sizes[total] == sizes["sequence_length"] + sizes["past_sequence_length"]
    assert first(made)[0] == {"batch_size": 2, "sequence_length": 7, total: 96, "past_sequence_length": 89}


@pytest.mark.parametrize(
    ("consume", "expected"),
    [
        ("w = Constant <value = float[4,2,1,1] {1,1,1,1,1,1,1,1}> () y = Conv <group=2> (x, w)", 4),
        (
            "t = Transpose <perm=[0,3,1,2]> (x) w = Constant <value = float[1,3,1,1] {1,2,3}> ()"
            " y = Conv(t, w)",
            None,
        ),
        ("y = Abs(x)", None),
    ],
)
def test_channels_follow_from_the_weights(consume: str, expected: int | None) -> None:
    made = model(f"g (float[N,C,H,W] x) => (float[a,b,c,d] y) {{ {consume} }}")
    small, large = first(made)
    if expected:
        assert small["C"] == large["C"] == expected
    elif "perm" in consume:
        assert small["W"] == large["W"] == 3
    else:
        assert small["C"] != large["C"]


# --- synthetic feeds ---------------------------------------------------------------------------------------


def test_each_type_is_drawn_in_its_own_way() -> None:
    made = inputs(
        ("x", FLOAT, ["n", 40, 40]), ("image", UINT8, ["n", 40, 40]), ("mask", INT64, ["n", 5]),
        ("flag", BOOL, []), ("word", STRING, ["n"]), ("half", BFLOAT16, [2]), ("scale", FLOAT, []),
    )  # fmt: skip
    feeds = synthetic(made, {"n": 2})
    assert [feeds[name].shape for name in feeds] == [(2, 40, 40), (2, 40, 40), (2, 5), (), (2,), (2,), ()]
    assert abs(feeds["x"].mean()) < 0.1
    assert abs(feeds["x"].std() - 1) < 0.1
    assert feeds["image"].max() > 200
    assert (feeds["mask"] == 1).all()
    assert feeds["mask"].dtype == np.int64
    assert feeds["flag"].item() is True
    assert feeds["word"].tolist() == ["a", "a"]
    assert feeds["half"].dtype.name == "bfloat16"


def test_draws_follow_the_seed() -> None:
    made = inputs(("x", FLOAT, ["n"]), ("z", FLOAT, ["n"]))
    once, again, other = (synthetic(made, {"n": 9}, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(once["x"], again["x"])
    assert (once["x"] != other["x"]).all()
    assert (once["x"] != once["z"]).all()


@pytest.mark.parametrize(
    "body",
    [
        "y = Gather(w, i)",
        "c = Cast <to=6> (i) y = Gather(w, c)",
        "p = Constant <value = int64 {2}> () a = Add(i, p) u = Unsqueeze(a, p)"
        " v = Identity(w) y = Gather(v, u)",
        "c = Constant <value_ints = [0,1,2,3,4]> () e = Equal(i, c) y = Cast <to=1> (e)",
        "big = Gather(w, i) small = Gather <axis=1> (w, i) y = Concat <axis=0> (big, small)",
    ],
)
def test_tokens_stay_within_their_table(body: str) -> None:
    made = model(f"g (int64[N,50] i) => (float y) <float[5,7] w = {{{','.join('0' * 35)}}}> {{ {body} }}")
    drawn = synthetic(made, {"N": 20})["i"]
    assert set(np.unique(drawn)) == set(range(3 if "Add" in body else 5))


def test_masks_and_selected_data_are_no_tokens() -> None:
    made = model(
        "g (int64[N] m, int64[k] d) => (float[N] y, int64[2] z) <int64[2] i = {0, 1}> "
        "{ y = Cast <to=1> (m) z = Gather(d, i) }"
    )
    feeds = synthetic(made, {"N": 9, "k": 9})
    assert (feeds["m"] == 1).all()
    assert (feeds["d"] == 1).all()


def test_a_missing_size_is_said() -> None:
    with pytest.raises(PruneoptError, match=r"input 'x': no size is given for axis 1 \(m\)"):
        synthetic(inputs(("x", FLOAT, ["n", "m"])), {"n": 2})


def test_an_unknown_rank_is_said() -> None:
    made = inputs(("x", FLOAT, ["n"]))
    made.inputs[0].shape = None
    with pytest.raises(
        PruneoptError, match="input 'x' does not say how many dimensions it has; give --calib"
    ):
        synthetic(made, {})


def test_sequences_cannot_be_drawn() -> None:
    made = model(
        "g (seq(float[N]) x) => (float[N] y) { i = Constant <value = int64 {0}> () y = SequenceAt(x, i) }"
    )
    with pytest.raises(PruneoptError, match="input 'x' is of type sequence"):
        synthetic(made, {})


# --- working feeds -----------------------------------------------------------------------------------------


def test_the_first_pair_that_runs_twice_is_taken() -> None:
    made = inputs(("x", FLOAT, ["batch", 3, "side", "side"]))
    small, large = working_feeds(made, lambda feeds: feeds["x"].shape[0] == 1 and feeds["x"].shape[2] >= 200)
    assert (small["x"].shape, large["x"].shape) == ((1, 3, 224, 224), (1, 3, 256, 256))


def test_a_static_model_is_drawn_twice() -> None:
    small, large = working_feeds(inputs(("x", FLOAT, [4])), lambda feeds: True)
    assert (small["x"] != large["x"]).all()


def test_the_reason_of_the_first_try_is_told() -> None:
    def refuses(feeds: Feeds) -> bool:
        raise PruneoptError(f"no batch of {len(feeds['x'])}")

    with pytest.raises(PruneoptError, match=r"give --calib \(no batch of 2\)"):
        working_feeds(inputs(("x", FLOAT, ["n"])), refuses)


# --- the user's feeds --------------------------------------------------------------------------------------

Save = Callable[..., str]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def write(name: str = "calib.npz", **arrays: Any) -> str:
        np.savez(tmp_path / name, **arrays)
        return str(tmp_path / name)

    return write


def ones(*shape: int, dtype: Any = np.float32) -> Any:
    return np.ones(shape, dtype)


@pytest.fixture
def two() -> Model:
    return inputs(("x", FLOAT, ["n", 4]), ("ids", INT64, ["n", "seq"]))


def test_a_file_is_one_batch(two: Model, save: Save) -> None:
    (feeds,) = load_calibration(save(x=ones(6, 4), ids=ones(6, 9, dtype=np.int64)), two)
    assert {name: array.shape for name, array in feeds.items()} == {"x": (6, 4), "ids": (6, 9)}


def test_a_file_is_a_stack_of_batches(two: Model, save: Save) -> None:
    feeds = load_calibration(save(x=ones(3, 6, 4), ids=ones(3, 6, 9, dtype=np.int64)), two)
    assert [batch["ids"].shape for batch in feeds] == [(6, 9)] * 3


def test_a_file_is_cut_where_the_model_fixes_the_batch(save: Save) -> None:
    feeds = load_calibration(
        save(x=np.arange(12, dtype=np.float32).reshape(6, 2)), inputs(("x", FLOAT, [2, 2]))
    )
    assert [batch["x"][0, 0] for batch in feeds] == [0, 4, 8]


def test_a_folder_is_read_by_name(save: Save, tmp_path: Path) -> None:
    for name, value in (("b", 2), ("a", 1)):
        save(f"{name}.npz", x=value * ones(1, 4))
    feeds = load_calibration(str(tmp_path), inputs(("x", FLOAT, ["n", 4])))
    assert [batch["x"][0, 0] for batch in feeds] == [1, 2]


def test_a_function_is_called(two: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_calibration_data.py").write_text(
        "import numpy as np\n"
        "def batches():\n"
        "    for n in (1, 2):\n"
        "        yield {'x': np.ones((n, 4), 'f'), 'ids': np.ones((n, 5), 'int64')}\n"
        "def broken():\n"
        "    raise KeyError('lost')\n"
        "def lists():\n"
        "    return [[1, 2]]\n"
    )
    monkeypatch.chdir(tmp_path)
    assert [len(batch["x"]) for batch in load_calibration("my_calibration_data:batches", two)] == [1, 2]
    for function, message in (
        ("broken", "calibration function my_calibration_data:broken failed: 'lost'"),
        ("missing", "has no attribute 'missing'"),
        ("lists", "yields list, but a dict"),
    ):
        with pytest.raises(PruneoptError, match=message):
            load_calibration(f"my_calibration_data:{function}", two)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": ones(6, 4)}, "there is no array for input 'ids'"),
        ({"x": ones(6, 4), "y": ones(1)}, "the model has no input 'y'; its inputs are x, ids"),
        (
            {"x": ones(6, 5), "ids": ones(6, 9, dtype=np.int64)},
            r"input 'x' should be float32 \[6, 4\], but is float32 \[6, 5\]",
        ),
        (
            {"x": ones(6, 4, dtype=np.float64), "ids": ones(6, 9, dtype=np.int64)},
            r"input 'x' should be float32 \[n, 4\], but is float64 \[6, 4\]",
        ),
        (
            {"x": ones(6, 4), "ids": ones(5, 9, dtype=np.int64)},
            r"input 'ids' should be int64 \[6, .*, but is int64 \[5, 9\]",
        ),
        ({"x": ones(2, 6, 4), "ids": ones(3, 6, 9, dtype=np.int64)}, "the stacks differ in length"),
        ({"x": ones(0, 6, 4), "ids": ones(0, 6, 9, dtype=np.int64)}, "is empty; give at least one batch"),
    ],
)
def test_wrong_arrays_are_named(two: Model, save: Save, arrays: Any, message: str) -> None:
    with pytest.raises(PruneoptError, match=message):
        load_calibration(save(**arrays), two)


def test_labels_come_along_when_they_are_named(two: Model, save: Save) -> None:
    file = save(x=ones(6, 4), ids=ones(6, 9, dtype=np.int64), y=np.arange(6))
    (batch,) = load_calibration(file, two, ["y"])
    assert batch["y"].tolist() == [0, 1, 2, 3, 4, 5]
    fixed = inputs(("x", FLOAT, [2, 4]))
    cut = load_calibration(save(x=ones(6, 4), y=np.arange(6)), fixed, ["y"])
    assert [each["y"].tolist() for each in cut] == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize(
    ("y", "names", "message"),
    [
        (ones(6), [], r"no input 'y'.*--labels"),
        (ones(6), ["y", "z"], "no array for label 'z'"),
        (ones(5), ["y"], r"label 'y' should have 6 rows as the inputs have, but is \[5\]"),
        (np.float32(1), ["y"], "label 'y' is a scalar"),
        (ones(6), ["x"], "'x' is an input of the model, no label"),
    ],
)
def test_wrong_labels_are_named(save: Save, y: Any, names: list[str], message: str) -> None:
    with pytest.raises(PruneoptError, match=message):
        load_calibration(save(x=ones(6, 4), y=y), inputs(("x", FLOAT, ["n", 4])), names)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nowhere.npz", "nowhere.npz does not exist"),
        ("nowhere", "'nowhere' is no .npz file, no folder and not MODULE:FUNCTION"),
        ("no_such_module:f", "No module named 'no_such_module'"),
    ],
)
def test_wrong_places_are_named(two: Model, spec: str, message: str) -> None:
    with pytest.raises(PruneoptError, match=message):
        load_calibration(spec, two)


def test_a_damaged_file_is_named(two: Model, tmp_path: Path) -> None:
    (tmp_path / "calib.npz").write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(PruneoptError, match=r"calib\.npz cannot be read"):
        load_calibration(str(tmp_path / "calib.npz"), two)
