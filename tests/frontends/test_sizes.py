"""Which sizes are tried for dynamic dimensions, and which feeds a model is first run on."""

from itertools import islice

import numpy as np
import pytest

from pruneopt.api import make_context
from pruneopt.errors import PruneoptError
from pruneopt.frontends import dimensions
from pruneopt.frontends.dimensions import Feeds
from pruneopt.frontends.sizes import given_feeds, probe_sizes, working_feeds
from pruneopt.model import Model
from tests.frontends.declared import FLOAT, INT64, inputs, model


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
