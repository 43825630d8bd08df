"""Feeds: what is drawn for which input, and what the user's files must hold."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pruneopt.errors import PruneoptError
from pruneopt.frontends.calibration import load_calibration
from pruneopt.frontends.synthetic import synthetic
from pruneopt.model import Model
from tests.frontends.declared import BFLOAT16, BOOL, FLOAT, INT64, STRING, UINT8, inputs, model

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
