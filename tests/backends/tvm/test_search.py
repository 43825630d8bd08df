"""What is tried for a layer, how its non-zeros are packed, and what is remembered."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tvm", reason="sparse kernels are compiled by TVM")

from pruneopt.backends.tvm.candidates import blocks, candidates
from pruneopt.backends.tvm.compiler import Plan
from pruneopt.backends.tvm.layer import Image, Layer, Schedule
from pruneopt.backends.tvm.measure import cut
from pruneopt.backends.tvm.packing import WINDOW, order, pack
from pruneopt.backends.tvm.records import Records
from pruneopt.backends.tvm.sites import find
from pruneopt.backends.tvm.target import parse
from pruneopt.backends.tvm.tuner import Best, _chosen
from pruneopt.backends.tvm.tuning import Group, gated
from pruneopt.model import Model
from tests.backends.tvm.nets import model, sparse


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


def test_windows_of_sliced_blocks_slide_over_all_entries() -> None:
    layer, schedule = Layer(90, 30), Schedule("lookup", 16, 1, 1)
    weight = sparse((30, 90), 1, 0.3)
    packed = pack(weight[None], None, layer, schedule, Plan(layer, schedule, 16).places())
    cut = order(layer, schedule)
    windows = packed.starts[cut.firsts :]
    made = np.zeros((32, 90), np.float32)
    for block, (start, end) in zip(
        packed.starts[cut.numbers : cut.firsts], pairwise(packed.starts), strict=False
    ):
        for entry in range(start, end):
            for lane, (value, place) in enumerate(
                zip(packed.values[entry], packed.offsets[entry], strict=True)
            ):
                made[block * 16 + lane, windows[entry] + place] += value
        assert (np.diff(windows[start:end]) >= 0).all()
    np.testing.assert_array_equal(made[:30], weight)
    assert windows.max() + WINDOW <= 90
    assert packed.offsets.dtype == np.uint8


def test_windows_that_slide_hold_fewer_zeros_than_blocks_that_wait_for_their_longest_output() -> None:
    layer, schedule = Layer(768, 768), Schedule("lookup", 16, 1, 1)
    weight = sparse((768, 768), 1, 0.2)
    packed = pack(weight[None], None, layer, schedule, Plan(layer, schedule, 16).places())
    longest = sum(
        (weight[a : a + 16, b : b + WINDOW] != 0).sum(axis=1).max()
        for a in range(0, 768, 16)
        for b in range(0, 768, WINDOW)
    )
    assert len(packed.values) < 0.85 * longest


@pytest.mark.parametrize(
    ("block", "n", "lanes", "wanted"),
    [(1, 1, 16, True), (1, 9, 16, False), (16, 1, 16, False), (1, 1, 8, False)],
)
def test_lookups_are_for_few_rows_in_wide_vectors(block: int, n: int, lanes: int, wanted: bool) -> None:
    found = candidates(Layer(384, 384), block, n, lanes, 0.2)
    assert any(each.template == "lookup" for each in found) == wanted


@pytest.mark.parametrize(
    ("image", "wanted"),
    [
        (Image((12, 8), (12, 8)), {"aligned", "inplace"}),
        (Image((7, 7), (7, 7)), {"aligned", "inplace"}),
        (Image((14, 14), (14, 14), (3, 3), (1, 1), (1, 1)), {"aligned", "tight", "masked"}),
        (Image((14, 14), (7, 7), (3, 3), (2, 2), (1, 1)), {"aligned", "tight"}),
    ],
)
def test_layouts_follow_the_image(image: Image, wanted: set[str]) -> None:
    layer = Layer(64 * image.kernel[0] * image.kernel[1], 64, 1, image)
    assert {each.layout for each in candidates(layer, 16, 1, 16, 0.2)} == wanted
    assert {each.layout for each in candidates(layer, 1, 1, 16, 0.2)} == wanted - {"masked"}


def test_candidates_are_few_and_the_same_each_time() -> None:
    first = candidates(Layer(384, 384), 16, 128, 16, 0.2)
    assert len(first) < 200
    assert list(first) == list(candidates(Layer(384, 384), 16, 128, 16, 0.2))


def test_the_search_goes_where_measurements_say() -> None:
    """Estimates are wrong by a factor for each family, which depends on the processor."""
    estimates = candidates(Layer(384, 384), 16, 128, 16, 0.2)
    for favoured in ("outputs", "positions"):
        chosen = _chosen(estimates, 8, lambda each: estimates[each] * (1 if each.template == favoured else 3))  # noqa: B023
        assert sum(each.template == favoured for each in chosen) >= len(chosen) - 1


@pytest.mark.parametrize(
    "layer", [Layer(40, 40), Layer(360, 40, 1, Image((8, 8), (8, 8), (3, 3), (1, 1), (1, 1)))]
)
def test_a_weight_of_zeros_alone_has_candidates(layer: Layer) -> None:
    assert candidates(layer, blocks(np.zeros((1, layer.outputs, layer.inputs), np.float32))[0], 4, 16, 0.0)


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


@pytest.mark.parametrize(
    ("tiles", "most", "threads", "parts"),
    [(3, 8, 1, 1), (3, 8, 2, 2), (1, 8, 2, 2), (1, 1, 2, 1), (8, 8, 2, 1), (5, 8, 4, 2)],
)
def test_outputs_are_cut_so_that_threads_do_not_wait(tiles: int, most: int, threads: int, parts: int) -> None:
    assert cut(tiles, most, threads) == parts
