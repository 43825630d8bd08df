"""How gates learn: each update rule against steps worked out by hand."""

from __future__ import annotations

from math import exp, log
from typing import Any

import numpy as np
import pytest

from pruneopt.passes.learning.masks import hard_concrete, l1, lora, spp, xpruner
from pruneopt.passes.learning.masks.method import Setting
from pruneopt.passes.planning.costs import limits
from tests.passes.learning.chain import chain, studied

torch = pytest.importorskip("torch")


def grad(tensor: Any) -> np.ndarray[Any, Any]:
    return np.asarray(tensor.grad.numpy())


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
