"""Recovery: the pruned model gets closer to the original, runs are equal, and nothing else changes."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest

import pruneopt as po
from pruneopt.api import make_context
from pruneopt.cli import main
from pruneopt.errors import PruneoptError, UsageError
from pruneopt.frontends.dimensions import Feeds
from pruneopt.model import Model, constants, values
from pruneopt.passes.base import Outcome
from pruneopt.passes.context import Context
from pruneopt.passes.learning import training
from pruneopt.passes.learning.adapters import Full, LowRank
from pruneopt.passes.learning.net import Net
from pruneopt.passes.learning.outputs import Meaning, meanings
from pruneopt.passes.learning.teaching import lesson
from pruneopt.passes.learning.training import Budget, Course, schedule
from pruneopt.passes.pipeline import Pipeline
from pruneopt.passes.recover import Recover, parts
from pruneopt.passes.spec import parse_passes
from pruneopt.passes.verify import check_signature
from tests import models

pytestmark = pytest.mark.usefixtures("own_cache")


def batches(model: Model, count: int = 10, rows: int = 8) -> list[Feeds]:
    shapes = {t.name: [rows, *(n if isinstance(n, int) else 6 for n in t.shape[1:])] for t in model.inputs}
    return [
        {n: np.random.default_rng(i).standard_normal(s).astype(np.float32) for n, s in shapes.items()}
        for i in range(count)
    ]


def pruned(
    proto: onnx.ModelProto, passes: str = "simplify, width{ratio=0.5}"
) -> tuple[Model, Model, Context]:
    """(original, pruned, context)."""
    model = models.loaded(proto)
    context = make_context(model, batches(model))
    return model, Pipeline(parse_passes(passes)).run(model, context).model, context


def stacked(model: Model) -> Feeds:
    """The batches, one after the other."""
    made = batches(model)
    return {name: np.concatenate([batch[name] for batch in made]) for name in made[0]}


def weights(model: Model) -> list[bytes]:
    return [values(c).tobytes() for c in constants(model.graph)]


def recovered(recover: Recover, model: Model, context: Context) -> tuple[Model, Outcome]:
    outcome = recover.run(model, context)
    return outcome.model, outcome


@pytest.mark.parametrize("lora", [None, 4])
@pytest.mark.parametrize("net", ["convnet", "transformer"])
def test_outputs_get_closer_to_the_original(net: str, lora: int | None) -> None:
    pytest.importorskip("torch")
    original, small, context = pruned(getattr(models, net)())
    made, outcome = recovered(Recover(epochs=3, lora=lora), small, context)
    held = outcome.entry["held_out"]
    assert outcome.entry["kept"]
    assert held["after"]["y"]["rel_l2"] < held["before"]["y"]["rel_l2"]
    assert min(outcome.entry["losses"]) < outcome.entry["losses"][0]
    check_signature(original, made)
    assert [n.op for n in made.graph.nodes] == [n.op for n in small.graph.nodes]


@pytest.mark.parametrize(("count", "judged"), [(1, 1), (5, 1), (320, 64), (1000, 62)])
def test_no_more_is_held_out_than_judging_takes(count: int, judged: int) -> None:
    fit, held = parts(count)
    assert len(held) == judged
    assert sorted({*fit, *held}) == list(range(count))
    assert count == 1 or not {*fit} & {*held}


def test_two_runs_are_equal_and_seeds_differ() -> None:
    pytest.importorskip("torch")
    _, small, context = pruned(models.transformer())
    first, second = (recovered(Recover(epochs=2), small, context)[0] for _ in range(2))
    context.seed = 1
    third = recovered(Recover(epochs=2), small, context)[0]
    assert weights(first) == weights(second) != weights(third)


def test_a_resumed_training_ends_where_the_whole_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr(training, "PAUSE", 0.0)
    _, small, context = pruned(models.convnet())
    file = str(tmp_path / "state.pt")
    whole = Recover(epochs=4).run(small, context)
    stopped = []

    def stop(text: str) -> None:
        stopped.append(text)
        if len(stopped) == 3:  # while the third epoch is told of, before it is written
            raise KeyboardInterrupt

    context.progress = stop
    with pytest.raises(KeyboardInterrupt):
        Recover(epochs=4, checkpoint=file).run(small, context)
    context.progress = lambda text: None
    resumed = Recover(epochs=4, checkpoint=file).run(small, context)
    assert resumed.entry["losses"] == whole.entry["losses"]
    assert weights(resumed.model) == weights(whole.model)
    with pytest.raises(PruneoptError, match="another model, data or options"):
        Recover(epochs=4, lr=0.03, checkpoint=file).run(small, context)


def test_a_stopped_training_goes_on_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a file to name: the state lies in the cache folder until the training is over."""
    pytest.importorskip("torch")
    monkeypatch.setattr(training, "PAUSE", 0.0)
    source, out = models.save(models.convnet(), tmp_path), tmp_path / "out.onnx"
    np.savez(tmp_path / "data.npz", **stacked(models.loaded(models.convnet())))  # type: ignore[arg-type]
    command = [str(source), "-o", str(out), "--calib", str(tmp_path / "data.npz"), "-q"]
    command += ["--passes", "simplify, width{ratio=0.5}, recover{epochs=3}"]
    write, seen = Course._write, []

    def stop(course: Course, optimiser: object, begin: float) -> None:
        seen.append((len(course.losses) - 1, course._step))
        write(course, optimiser, begin)
        if len(seen) == 12:  # in the second epoch
            raise KeyboardInterrupt

    monkeypatch.setattr(Course, "_write", stop)
    assert main(command) == 130
    assert "the same command goes on with recover from" in capsys.readouterr().err
    assert len(list((tmp_path / "cache" / "trainings").iterdir())) == 1
    assert main(command) == 0
    assert seen[11][1] > 0
    assert seen == sorted(set(seen))  # no step twice
    assert not list((tmp_path / "cache" / "trainings").iterdir())


def test_a_harmful_training_is_undone() -> None:
    pytest.importorskip("torch")
    model = models.loaded(models.convnet())
    context = make_context(model, batches(model))
    outcome = Recover(epochs=2, lr=3.0).run(model, context)  # nothing to learn: it starts at distance zero
    assert outcome.model is model
    assert not outcome.entry["kept"]


def test_judging_is_part_of_the_time() -> None:
    torch = pytest.importorskip("torch")
    net = Net(models.loaded(models.transformer()))

    def slow(number: int) -> object:
        time.sleep(0.02)
        return torch.zeros((), requires_grad=True) * 1.0

    course = Course(Full(net), slow, [0], [1, 2, 3], 0.01, Budget(None, 0.03 / 60), 0, lambda text: None)
    course.run()
    assert len(course.losses) == 1
    assert course.spent >= 0.06


def test_zeros_of_sparse_weights_stay_zero() -> None:
    pytest.importorskip("torch")
    for lora in (None, 4):
        _, small, context = pruned(models.transformer(), "sparsify{sparsity=0.5, method=magnitude}")
        zeros = [values(c) == 0 for c in constants(small.graph)]
        made, outcome = recovered(Recover(epochs=3, lora=lora), small, context)
        assert outcome.entry["kept"]
        after = [values(c) for c in constants(made.graph)]
        matrices = [(z, a) for z, a in zip(zeros, after, strict=True) if a.ndim >= 2]
        assert sum(int(z.sum()) for z, _ in matrices) > 1000
        assert all(not a[z].any() for z, a in matrices)


def test_tables_that_are_only_looked_up_do_not_learn() -> None:
    pytest.importorskip("torch")
    b = models.Builder()
    x = b.node("Gather", b.weight(50, 32, name="table"), "ids")
    h = b.node("Relu", b.node("MatMul", x, b.weight(32, 64)))
    b.node("MatMul", h, b.weight(64, 32), outputs=["y"])
    looked_up = b.model({}, {"y": ["n", "s", 32]})
    looked_up.graph.input.append(
        onnx.helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, ["n", "s"])
    )
    for proto, learns in ((looked_up, False), (models.tied_language_model(), True)):
        net = Net(models.loaded(proto))
        assert net.tables == (set() if learns else {"table"})
        for learner in (Full(net), LowRank(net, 4, 0)):
            assert ("table" in learner.weights) == learns
            assert len(learner.weights) == len(net.weights) - (not learns)


def test_hidden_states_of_the_residual_stream_are_matched() -> None:
    pytest.importorskip("torch")
    original, small, _ = pruned(models.transformer(), "simplify, width{ratio=0.75, axes=inner}")
    feeds = batches(original, 1)[0]
    task, dense, net = lesson(original, small, feeds, 1.0, "cpu")
    assert task.hidden
    assert net.outputs == dense.outputs == ["y", *task.hidden]
    same, other = task.loss(dense.run(feeds), dense.run(feeds)), task.loss(net.run(feeds), dense.run(feeds))
    assert same.item() < 1e-6 < other.item()
    assert not lesson(original, small, feeds, 0.0, "cpu")[0].hidden


def test_meanings_follow_from_the_graph() -> None:
    b = models.Builder()
    y = b.node("MatMul", "x", b.weight(6, 4))
    z = b.node("Softmax", y, axis=-1)
    v = b.node("Relu", y)
    tied = b.node(
        "MatMul", "x", b.node("Transpose", b.weight(4, 6), perm=[1, 0])
    )  # a table that is a head, too
    model = models.loaded(b.model({"x": ["n", 6]}, {name: ["n", 4] for name in (y, z, v, tied)}))
    assert meanings(model) == {
        y: Meaning.LOGITS,
        z: Meaning.PROBABILITIES,
        v: Meaning.VECTOR,
        tied: Meaning.LOGITS,
    }


def test_adapters_start_where_the_model_is() -> None:
    torch = pytest.importorskip("torch")
    model = models.loaded(models.transformer())
    feeds = batches(model, 1)[0]
    net = Net(model)
    adapters = LowRank(net, 4, 0)
    before = net.run(feeds)["y"]
    torch.testing.assert_close(net.run(feeds, adapters.changed())["y"], before)
    for up, _ in adapters.pairs.values():
        up.data.normal_(std=0.1)
    changed = net.run(feeds, adapters.changed())["y"]
    adapters.fold()
    torch.testing.assert_close(net.run(feeds)["y"], changed)
    assert not torch.allclose(before, changed)


def test_the_rate_goes_up_in_a_line_and_down_to_nothing() -> None:
    assert schedule(0.05) == 1.0
    assert 0 < schedule(0.0) < schedule(0.02) < 1
    assert schedule(0.525) == pytest.approx(0.5)
    assert schedule(1.0) == pytest.approx(0.0)


def test_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.loaded(models.convnet())
    with pytest.raises(UsageError, match="calibration"):
        po.prune(model, passes="recover", timed=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(PruneoptError, match=r"pruneopt\[torch\]"):
        po.prune(model, passes="recover", calib=batches(model, 1), timed=False)


@pytest.mark.parametrize("option", ["epochs=0", "lr=0", "batch=-1", "hidden=-1", "minutes=0"])
def test_options_are_checked(option: str) -> None:
    with pytest.raises(UsageError, match=option.split("=")[0]):
        parse_passes(f"recover{{{option}}}")
