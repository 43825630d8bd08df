"""Learned gates: each update rule against steps worked out by hand, and whole searches on small nets."""

from __future__ import annotations

from math import exp, log
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import pruneopt as po
from pruneopt.analysis.axes import Axis, atoms
from pruneopt.analysis.groups import Group, find_groups
from pruneopt.analysis.infer import Analysis, analyse
from pruneopt.api import make_context
from pruneopt.errors import PruneoptError, UsageError
from pruneopt.model import Model
from pruneopt.passes.learn import Learn
from pruneopt.passes.learning.labels import by_class
from pruneopt.passes.learning.masks import hard_concrete, l1, lora, spp, xpruner
from pruneopt.passes.learning.masks.folding import fold
from pruneopt.passes.learning.masks.gates import Gated, gate_of, gateable
from pruneopt.passes.learning.masks.method import Setting
from pruneopt.passes.learning.masks.search import search
from pruneopt.passes.planning.costs import limits
from pruneopt.passes.planning.kinds import kinds_of
from pruneopt.passes.planning.ranked import ranked
from pruneopt.passes.rewriting.masked import Masked
from pruneopt.passes.rewriting.shrink import shrink
from tests import models

torch = pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNEOPT_CACHE", str(tmp_path / "cache"))


X = {"x": np.random.default_rng(0).standard_normal((16, 6, 24)).astype(np.float32)}


def chain(scale: tuple[float, ...] = (4, 0.5, 2, 0.1, 1, 0.2, 3, 0.05)) -> Model:
    """y = (x A) B, whose neuron i matters as much as `scale[i]` says."""
    rng = np.random.default_rng(1)
    a = np.linalg.qr(rng.standard_normal((8, 8)))[0].astype(np.float32)
    b = (np.linalg.qr(rng.standard_normal((8, 8)))[0] * np.array(scale)[:, None]).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "A"], ["h"]), helper.make_node("MatMul", ["h", "B"], ["y"])]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 8]) for n in "xy"]
    weights = [numpy_helper.from_array(a, "A"), numpy_helper.from_array(b, "B")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(proto)
    return Model.from_proto(proto)


def studied(model: Model) -> tuple[Analysis, list[Group]]:
    analysis = analyse(model, make_context(model).observation(model))
    return analysis, find_groups(analysis)


def rows(count: int = 64) -> list[dict[str, np.ndarray[Any, Any]]]:
    return [{"x": np.random.default_rng(2).standard_normal((count, 8)).astype(np.float32)}]


def grad(tensor: Any) -> np.ndarray[Any, Any]:
    return np.asarray(tensor.grad.numpy())


# The update rules.


def test_z_accumulates_the_gap_with_the_corrected_rate() -> None:
    z, m, gamma = torch.tensor([0.0, 2.0]), torch.tensor([1.0, 0.5]), torch.tensor([0.0, 0.2])
    first = spp.step_z(z, m, gamma, lr=0.1, t=1)  # lr_1 = 0.1 / (1 - 0.9) = 1
    assert torch.allclose(first, torch.tensor([1.0, 2.3]))
    second = spp.step_z(first, m, gamma, lr=0.1, t=2)  # lr_2 = 0.1 / 0.19
    assert torch.allclose(second, torch.tensor([1 + 0.1 / 0.19, 2.3 + 0.03 / 0.19]))


def test_gamma_is_z_beyond_three_and_never_negative() -> None:
    z = torch.tensor([-5.0, 0.0, 2.9, 3.0, 4.0, 6.0])
    assert torch.allclose(spp.shrink_z(z), torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0, 3.0]))


def test_a_step_of_spp_by_hand() -> None:
    _, (group, *_) = studied(chain())
    method = spp.SolutionPath([group], Setting(steps=60, label_free=True))
    assert method.lr == pytest.approx(0.1)
    assert method.nu == 8
    method.gamma[0][0] = 0.5
    (torch.tensor(0.0) + method.penalty(0)).backward()
    wanted = (1 - np.array([0.5, 0, 0, 0, 0, 0, 0, 0])) / 8  # (M - Gamma) / nu
    assert np.allclose(grad(method.m[0]), wanted)
    method.update(0)
    moved = 1 - 0.1 * wanted / (wanted + 1e-4)  # Adam's first step: g / (|g| + eps)
    assert np.allclose(method.m[0].detach().numpy(), moved, atol=1e-6)
    assert np.allclose(method.z[0].numpy(), moved - np.array([0.5, 0, 0, 0, 0, 0, 0, 0]), atol=1e-5)


def test_the_record_counts_every_tenth_step() -> None:
    _, (group, *_) = studied(chain())
    method = spp.SolutionPath([group], Setting(steps=100))
    method.z[0][:4] = 100.0
    for step in range(20):
        method.penalty(step).backward()
        method.update(step)
    assert method.record[0].tolist() == [2, 2, 2, 2, 0, 0, 0, 0]
    assert method.entered == [[4], [4]]


def test_hard_concrete_by_hand() -> None:
    loga, u = torch.tensor([0.0, 5.0, -5.0]), torch.tensor([0.5, 0.5, 0.5])
    assert torch.allclose(hard_concrete.sample(loga, u), torch.tensor([0.5, 1.0, 0.0]))
    s = 1 / (1 + exp(-(log(0.7 / 0.3) + 0.3) / (2 / 3)))
    found = hard_concrete.sample(torch.tensor(0.3), torch.tensor(0.7))
    assert float(found) == pytest.approx(min(1.0, s * 1.2 - 0.1), abs=1e-6)
    closed = 1 / (1 + exp(-(2 / 3 * log(0.1 / 1.1) - 0.3)))
    assert float(hard_concrete.open_chance(torch.tensor(0.3))) == pytest.approx(1 - closed, abs=1e-6)
    assert float(hard_concrete.value(torch.tensor(0.3))) == pytest.approx(1 / (1 + exp(-0.36)), abs=1e-6)


def test_the_chance_to_be_open_is_that_of_the_draws() -> None:
    u = torch.rand(200_000, generator=torch.Generator().manual_seed(0))
    for loga in (-1.0, 0.0, 1.0):
        share = (hard_concrete.sample(torch.tensor(loga), u) > 0).float().mean()
        assert float(share) == pytest.approx(float(hard_concrete.open_chance(torch.tensor(loga))), abs=5e-3)


def test_the_target_rises_over_a_fifth_of_the_steps() -> None:
    assert [hard_concrete.target(0.5, step, 100) for step in (0, 10, 20, 90)] == [0, 0.25, 0.5, 0.5]


def test_multipliers_climb_while_gates_descend() -> None:
    _, (group, *_) = studied(chain())
    setting = Setting(steps=10, targets={group.atom: 4})
    method = hard_concrete.HardConcrete([group], setting)
    with torch.no_grad():
        method.multipliers.copy_(torch.tensor([[-2.0], [2.0]]))
    over = float((1 - hard_concrete.open_chance(method.loga[0]).mean()).detach()) - 0.5
    penalty = method.penalty(9)
    assert float(penalty.detach()) == pytest.approx(-2 * over + 2 * over**2, abs=1e-5)
    penalty.backward()
    assert np.allclose(grad(method.multipliers).ravel(), [over, over**2], atol=1e-6)
    before = method.loga[0].detach().clone()
    method.update(9)
    moved = method.multipliers.detach().numpy().ravel() - np.array([-2, 2])
    assert moved[0] < 0 < moved[1]  # too open: s < t, so lambda falls, and (s - t)^2 raises phi
    assert bool((method.loga[0] < before).all())


def test_l1_by_hand() -> None:
    gates = [torch.tensor([1.0, -2.0]), torch.tensor([3.0])]
    assert float(l1.l1(gates, [2e-4, 5e-5])) == pytest.approx(3 * 2e-4 + 3 * 5e-5)
    _, (group, *_) = studied(chain())
    method = l1.Shrinkage([group], Setting(steps=10, lr=0.1, kinds={group.atom: "inner"}))
    method.penalty(0).backward()
    assert np.allclose(grad(method.z[0]), 5e-5)
    method.update(0)  # AdamW: decay by lr * 1e-3, then lr * g / (|g| + 1e-8)
    wanted = 1 - 0.1 * 1e-3 - 0.1 * 5e-5 / (5e-5 + 1e-8)
    assert np.allclose(method.z[0].detach().numpy(), wanted, atol=1e-6)


def test_lora_estimates_the_gradient_by_the_step_of_its_product() -> None:
    a, b = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [4.0]])
    grad_a, grad_b = torch.tensor([[0.1, 0.2]]), torch.tensor([[0.3], [0.4]])
    found = lora.estimate(a, b, grad_a, grad_b)
    assert torch.allclose(found, b @ a - (b - grad_b) @ (a - grad_a), atol=1e-6)
    assert torch.allclose(found[0], torch.tensor([0.3 + 0.3 - 0.03, 0.6 + 0.6 - 0.06]))


def test_lora_closes_by_a_cubic_schedule_between_two_tenths() -> None:
    shares = [lora.closed_share(step, 100) for step in (0, 10, 50, 90, 100)]
    assert shares == pytest.approx([0, 0, 1 - 0.5**3, 1, 1])


def test_lora_importance_by_hand() -> None:
    _, (group, *_) = studied(chain())
    elements = {"A": np.zeros((8, 8)), "B": np.zeros((8, 8))}
    elements["A"][:, 1] = 0.5  # sums: 4 at entry 1
    elements["B"][0], elements["B"][1] = 3.0, 4.0  # sums: 24 and 32, over their norm 0.6 and 0.8
    assert np.allclose(lora.importance(group, elements), [0.6, 1.8, 0, 0, 0, 0, 0, 0])


def test_lora_averages_and_closes_what_matters_least() -> None:
    _, (group, *_) = studied(chain())
    method = lora.Adapted([group], Setting(steps=20, targets={group.atom: 4}))
    weights = {n: torch.from_numpy(np.array(chain().graph.tensors()[n].values)) for n in "AB"}
    for step in range(20):
        new = method.changed(weights)
        (new["A"].sum() + (new["B"] * 2).sum()).backward()
        elements = {name: method._elements(name) for name in "AB"}
        before = method.average[group].copy()
        wanted = 0.9 * before + 0.1 * lora.importance(group, elements)
        method.update(step)
        assert np.allclose(method.average[group], wanted)
        if step < 9:
            assert float(method.open[group.atom].sum()) == 8
    assert float(method.open[group.atom].sum()) == 4
    order = np.argsort(method.average[group])
    assert not method.open[group.atom].numpy()[order[:4]].any()
    moved = method.adapted()["B"] - weights["B"].numpy()
    assert np.abs(moved).max() > 0


# The gates.


def test_x_pruner_by_hand() -> None:
    mask, mean = torch.tensor([1.0, -0.5]), torch.tensor([0.0, 0.5])
    assert xpruner.penalty(mask, mean).item() == pytest.approx(1e-4 * 1.5 + 1e-4 * 2)
    gates = xpruner.opened(torch.tensor([0.9, 0.5]), torch.tensor(0.7), 0.1)
    assert gates.tolist() == pytest.approx([1 / (1 + exp(-2)), 1 / (1 + exp(2))])
    assert xpruner.charged(0.2, 0.5) == pytest.approx(0.5 * 0.2 + 5 * 0.04)
    assert xpruner.climbed(0.5, 0.2, 2.0) == pytest.approx(0.9)
    assert xpruner.climbed(0.1, -0.2, 2.0) == 0.0


def test_the_cost_of_soft_sizes() -> None:
    """Both maps are [8, 8] on n rows: 128 n multiply-accumulates, of which half the neurons save half."""
    analysis, (group,) = studied(chain())
    (limit,) = limits(analysis, {"macs": 0.5})
    half = torch.tensor(4.0, requires_grad=True)
    found = xpruner.cost(limit, {group.atom: half})
    assert found.item() == pytest.approx(limit.whole / 2)
    found.backward()
    assert half.grad.item() == pytest.approx(limit.whole / 8)


def test_only_the_mask_of_the_class_moves() -> None:
    analysis, (group,) = studied(chain())
    fixed = limits(analysis, {"macs": 0.5})
    method = xpruner.ClassMasks([group], Setting(steps=60, lr=0.1, limits=fixed, classes=3))
    method.meets(1)
    (method.gates()[group.atom] * torch.arange(8.0)).sum().backward()
    method.update(0)
    first, second, third = (m.detach() for m in method.masks[0])
    assert torch.equal(first, torch.ones(8))
    assert torch.equal(third, torch.ones(8))
    assert second[0] == 1  # Adam's first step is the rate where there is a slope
    assert torch.allclose(second[1:], torch.full((7,), 0.9), atol=1e-5)
    assert torch.allclose(method.means[0], (first + second + third) / 3)


def test_thresholds_rise_until_the_budget_holds() -> None:
    analysis, (group,) = studied(chain())
    fixed = limits(analysis, {"macs": 0.5})
    method = xpruner.ClassMasks([group], Setting(steps=400, limits=fixed, classes=1))
    method.masks[0][0].data = torch.arange(1.0, 9.0)
    method.step = method.switch - 1
    method.update(method.step)
    assert method.scores()[group.atom].min() == pytest.approx(xpruner.OPEN)
    for step in range(method.step, 400):
        loss = 0.1 * ((1 - method.gates()[group.atom]) * method.means[0]).sum()
        (loss + method.penalty(step)).backward()
        method.update(step)
    assert abs(float(method._over().detach())) < 0.1
    assert ((method.scores()[group.atom] > 0) == (np.arange(8) >= 4)).all()


def test_samples_come_by_class() -> None:
    model = chain()
    batches = [{"x": np.full((3, 8), i, np.float32), "kind": np.array([0, 2, 0])} for i in range(2)]
    found = by_class(model, batches, 3)
    assert [(label, batch["x"][:, 0].tolist()) for label, batch in found] == [
        (0, [0, 0, 1]),
        (0, [1]),
        (2, [0, 1]),
    ]
    assert found[1][1]["kind"].tolist() == [0]
    with pytest.raises(UsageError, match="class of every row"):
        by_class(model, rows(), 3)


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


def test_gates_of_a_product_are_the_kronecker_product() -> None:
    analysis, groups = studied(models.loaded(models.transformer(1)))
    axis = next(u.axis for u in analysis.contractions if len({a for a in atoms(u.axis) if a.static}) == 2)
    first, second = (a for a in atoms(axis) if a.static)
    gates = {
        first: torch.arange(first.size[0], dtype=torch.float32),
        second: torch.arange(second.size[0], dtype=torch.float32),
    }
    assert torch.equal(gate_of(axis, gates), torch.kron(gates[first], gates[second]))
    assert groups


@pytest.mark.parametrize("build", [models.convnet, models.transformer, models.fused_attention])
def test_gates_of_zero_are_the_masked_original(build: object) -> None:
    model = models.loaded(build())  # type: ignore[operator]
    context = make_context(model)
    analysis = analyse(model, context.observation(model))
    groups = [g for g in find_groups(analysis) if gateable(g, analysis)]
    rng = np.random.default_rng(3)
    masks = {g.atom: rng.random(g.size) < 0.6 for g in groups}
    for mask in masks.values():
        mask[0] = True
    reference, feeds = next(iter(Masked(analysis, masks).references()))
    wanted = context.session(reference).run(feeds)["y"]
    gates = {atom: torch.from_numpy(mask.astype(np.float32)) for atom, mask in masks.items()}
    found = Gated(analysis, list(masks)).run(feeds, gates)["y"].detach().numpy()
    assert groups
    assert np.abs(found - wanted).max() < 1e-4 * max(1.0, np.abs(wanted).max())


# Searches.


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


def test_folded_gates_do_what_gates_did() -> None:
    analysis, (group, *_) = studied(chain())
    mask = np.array([True, False, True, False, True, False, True, False])
    values = {group.atom: np.linspace(0.2, 0.9, 8)}
    small = shrink(analysis, {group.atom: mask})
    folded = fold(small, analysis, {group.atom: mask}, values)
    feeds = rows(5)[0]
    gates = {group.atom: torch.from_numpy((values[group.atom] * mask).astype(np.float32))}
    wanted = Gated(analysis, [group.atom]).run(feeds, gates)["y"].detach().numpy()
    found = make_context(folded).session(folded).run(feeds)["y"]
    assert np.allclose(found, wanted, atol=1e-6)
    assert not np.allclose(make_context(small).session(small).run(feeds)["y"], wanted, atol=1e-2)


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
