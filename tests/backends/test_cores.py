"""Threads that are timed have a core each."""

import os
from typing import Any

import onnxruntime
import pytest

from pruneopt.backends import cores as module
from pruneopt.backends.cores import bound, cores, share

linux = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="threads cannot be bound here")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Processors 0 to 7, of which 4 is not ours; n and n + 4 share a core."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 5, 6, 7}, raising=False)
    monkeypatch.setattr(module, "SIBLINGS", str(tmp_path / "{}"))
    for each in range(8):
        (tmp_path / str(each)).write_text(f"{each % 4},{each % 4 + 4}\n")


@pytest.mark.usefixtures("machine")
def test_cores_come_before_the_second_threads_of_cores() -> None:
    assert cores(2) == [0, 1]
    assert cores(4) == [0, 1, 2, 3]
    assert cores(5) == [0, 1, 2, 3, 5]
    assert cores(8) == []


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(("threads", "own", "told"), [(1, [], ""), (3, [0, 1, 2], "2;3"), (8, [], "")])
def test_onnxruntime_binds_all_threads_but_the_one_that_calls(
    threads: int, own: list[int], told: str
) -> None:
    options = onnxruntime.SessionOptions()
    assert share(options, threads) == own
    assert options.intra_op_num_threads == threads
    key = "session.intra_op_thread_affinities"
    assert (options.get_session_config_entry(key) if told else "") == told


@linux
def test_a_thread_is_bound_for_as_long_as_it_is_timed() -> None:
    before = os.sched_getaffinity(0)
    last = max(before)
    with bound([last]):
        assert os.sched_getaffinity(0) == {last}
    assert os.sched_getaffinity(0) == before
    with bound([]):
        assert os.sched_getaffinity(0) == before


@linux
def test_a_system_that_binds_no_threads_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setaffinity", refused)
    with bound([0]):
        pass
