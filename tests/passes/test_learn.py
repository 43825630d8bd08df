"""Searches for gates on small nets, and what is kept of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pruneopt as po
from pruneopt.analysis.axes import Axis
from pruneopt.analysis.groups import find_groups
from pruneopt.errors import PruneoptError, UsageError
from pruneopt.passes.learn import Learn
from pruneopt.passes.learning.masks import spp
from pruneopt.passes.learning.masks.method import Setting
from pruneopt.passes.learning.masks.search import search
from pruneopt.passes.planning.costs import limits
from pruneopt.passes.planning.kinds import kinds_of
from pruneopt.passes.planning.ranked import ranked
from tests import models
from tests.passes.learning.chain import chain, rows, studied

torch = pytest.importorskip("torch")


pytestmark = pytest.mark.usefixtures("own_cache")


X = {"x": np.random.default_rng(0).standard_normal((16, 6, 24)).astype(np.float32)}


def test_one_threshold_serves_all_groups_of_a_kind() -> None:
    analysis, _ = studied(models.loaded(models.transformer()))
    kinds = kinds_of(find_groups(analysis), analysis)
    groups = [g for g in kinds if kinds[g] == "inner"]
    scores: dict[Axis, np.ndarray[Any, Any]] = {
        g.atom: np.full(g.size, float(i)) for i, g in enumerate(groups)
    }
    fixed = limits(analysis, {"macs": 0.8})
    kept = ranked(groups, kinds, scores, fixed, 8, 0.1)
    assert kept[groups[1].atom] == groups[1].size  # all of the better layer, what is left of the other
    assert kept[groups[0].atom] < groups[0].size


def test_x_pruner_keeps_what_some_class_needs() -> None:
    """Six rows of A are read by one class's samples only: their neurons outlast the two that none reads."""
    model = chain((1, 1, 1, 1, 1, 1, 0.01, 0.01))
    model.graph.tensors()["A"].values = np.eye(8, dtype=np.float32)
    kind = np.repeat(np.arange(3), 16)
    x = np.random.default_rng(3).standard_normal((48, 8)).astype(np.float32)
    x[:, :6] *= np.kron(np.eye(3), np.ones(2))[kind].astype(np.float32)
    learn = Learn(method="x-pruner", macs=0.75, steps=90, align=1)
    result = po.prune(model, passes=(learn,), calib=[{"x": x, "kind": kind}], timed=False)
    (kept,) = [t.values for t in result.model.graph.tensors().values() if t.name == "A"]
    assert np.flatnonzero(kept.any(1)).tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("method", ["spp", "l1", "lora"])
def test_what_matters_most_stays(method: str) -> None:
    passes = (Learn(method, macs=0.5, steps=120, align=1),)
    result = po.prune(chain(), passes=passes, calib=rows(), timed=False)
    assert result.report["groups"][0]["kept"] == 4
    lengths = np.linalg.norm(result.model.graph.tensors()["B"].values, axis=1)
    if method == "lora":  # a noisy estimate; its adapters have moved the weights
        assert np.allclose(sorted(lengths)[1:], [2, 3, 4], atol=0.05)
    else:
        assert np.allclose(sorted(lengths), [1, 2, 3, 4], atol=1e-4)
    assert result.report["equivalence"]["max_rel_error"] < 1e-5


def test_hard_concrete_meets_its_target_and_folds() -> None:
    passes = (Learn("hard-concrete", macs=0.5, steps=60, align=1),)
    result = po.prune(chain(), passes=passes, calib=rows(), timed=False)
    assert result.report["groups"][0]["kept"] == 4
    assert result.report["passes"][1]["folded"]
    lengths = np.linalg.norm(result.model.graph.tensors()["B"].values, axis=1)
    assert all(abs(length - size) > 1e-4 for length in lengths for size in (1, 2, 3, 4))  # scaled by gates


def test_one_search_serves_every_ratio(tmp_path: Path) -> None:
    path = str(tmp_path / "path.npz")
    model = models.loaded(models.transformer())
    first = po.prune(model, passes=f"learn{{macs=0.7, steps=30, path={path}}}", calib=[X], timed=False)
    assert first.report["passes"][1]["searched"]
    later = po.prune(model, passes=f"learn{{macs=0.5, path={path}}}", timed=False)  # no data, no search
    assert not later.report["passes"][1]["searched"]
    assert later.report["passes"][1]["path"] == first.report["passes"][1]["path"]
    assert len(first.report["passes"][1]["path"]["in"]) == 3  # every tenth step
    for result, share in ((first, 0.7), (later, 0.5)):
        assert share - 0.01 <= result.report["output"]["macs"] / result.report["input"]["macs"] <= share
    for a, b in zip(first.report["groups"], later.report["groups"], strict=True):
        assert a["kept"] >= b["kept"]


def test_a_loss_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the first output counts: neurons that it does not read go, however large they are elsewhere."""
    text = (
        "import torch\n"
        "def loss(outputs, batch):\n"
        "    return (outputs['y'][:, 0] - 2.0 * torch.from_numpy(batch['t'])).square().mean()\n"
    )
    (tmp_path / "own_loss.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    model = chain()
    b = np.eye(8, dtype=np.float32)[:, ::-1] * 5
    b[:, 0] = [1, 1, 1, 1, 0, 0, 0, 0]
    model.graph.tensors()["B"].values = np.ascontiguousarray(b)
    batch = rows()[0]
    h = batch["x"] @ np.array(model.graph.tensors()["A"].values)
    batch["t"] = h[:, :4].sum(1)  # a larger gate on the first four lowers the loss; the others' slope is zero
    analysis, groups = studied(model)
    setting = Setting(steps=60, label_free=False)
    method, losses = search(
        analysis, groups, spp.SolutionPath, setting, [(0, batch)], "own_loss:loss", lambda text: None
    )
    scores = method.scores()[groups[0].atom]
    assert scores[:4].min() > scores[4:].max()
    assert losses[-1] < losses[0]


def test_a_path_of_another_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "path.npz"
    po.prune(chain(), passes=f"learn{{macs=0.7, steps=10, path={path}}}", calib=rows(), timed=False)
    other = chain((1, 1, 1, 1, 1, 1, 1, 2))
    with pytest.raises(PruneoptError, match="over other weights or groups"):
        po.prune(other, passes=f"learn{{macs=0.5, path={path}}}", timed=False)
    path.write_bytes(b"nothing")
    with pytest.raises(PruneoptError, match="holds no saved search"):
        po.prune(other, passes=f"learn{{macs=0.5, path={path}}}", timed=False)


def test_the_softmax_scale_stays() -> None:
    """A run-time scale of the dense width would change with it; the proof compares with the dense scale."""
    model = models.loaded(models.transformer())
    result = po.prune(model, passes=(Learn(macs=0.97, steps=10, axes="score"),), calib=[X], timed=False)
    assert any(g["kept"] < g["size"] for g in result.report["groups"] if g["kind"] == "score")
    assert result.report["equivalence"]["max_rel_error"] < 1e-5


BAD = {
    "no budget": ({}, "with a budget"),
    "no such method": ({"macs": 0.5, "method": "x"}, "no method 'x'"),
    "a share above 1": ({"macs": 1.5}, "share to keep"),
    "no steps": ({"macs": 0.5, "steps": 0}, "not positive"),
    "no such axis": ({"macs": 0.5, "axes": "x"}, "no axis 'x'"),
    "a path for one budget": ({"macs": 0.5, "method": "hard-concrete", "path": "p"}, "one budget"),
}


@pytest.mark.parametrize(("options", "said"), BAD.values(), ids=BAD.keys())
def test_options_that_make_no_sense(options: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Learn(**options)  # type: ignore[arg-type]


def test_without_data_there_is_nothing_to_learn_from() -> None:
    with pytest.raises(UsageError, match="--calib"):
        po.prune(chain(), passes="learn{macs=0.5}", timed=False)
