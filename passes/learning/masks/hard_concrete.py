"""Sheared LLaMA (Xia et al. 2024): hard-concrete gates held to a target by Lagrange multipliers.

    z = clip(sigmoid((log u - log(1 - u) + loga) / beta) (r - l) + l, 0, 1)     Louizos et al. 2018
    P(z != 0) = 1 - sigmoid(beta log(-l / r) - loga)
    min over loga, max over lambda, phi:   loss + sum of lambda (s - t) + phi (s - t)^2

with beta = 2/3, l = -0.1, r = 1.1, loga starting at N(5, 0.01) and kept within +-log 100; s is the expected share that
is closed, t its target, which rises from 0 over the first fifth of the steps. Every group has its own multipliers and
the target that the plan gives it. At the end the top entries of sigmoid(0.8 loga / beta) stay, and these values become
part of the weights. Gates on whole layers and on the residual stream are not built, and the weights do not
learn with the gates; the gates' learning rate of 1 is for 3200 steps, here it is lower.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import Any

from pruneopt.analysis.axes import Axis
from pruneopt.analysis.groups import Group
from pruneopt.passes.learning.masks.method import Frozen, Scores, Setting

BETA = 2 / 3
LOW, HIGH = -0.1, 1.1
BOUND = log(100)
WARM_UP = 0.2  # of the steps
DETERMINISTIC = 0.8
RATE = 0.1


def sample(loga: Any, u: Any) -> Any:
    """z of uniform u in (0, 1), any shape."""
    s = ((u.log() - (1 - u).log() + loga) / BETA).sigmoid()
    return (s * (HIGH - LOW) + LOW).clamp(0, 1)


def open_chance(loga: Any) -> Any:
    """P(z != 0)."""
    return 1 - (BETA * log(-LOW / HIGH) - loga).sigmoid()


def value(loga: Any) -> Any:
    """The gate that stands for its distribution."""
    return (DETERMINISTIC * loga / BETA).sigmoid()


def target(closed: float, step: int, steps: int) -> float:
    """The share to be closed at a step: it rises to `closed` over the warm-up."""
    return closed * min(1.0, step / max(1.0, WARM_UP * steps))


class HardConcrete(Frozen):
    """The state of one search."""

    axes = "inner+heads"
    reads_any_ratio = False
    folds = True

    def __init__(self, groups: Sequence[Group], setting: Setting) -> None:
        import torch

        self.generator = torch.Generator().manual_seed(setting.seed)
        self.atoms = [g.atom for g in groups]
        self.steps = setting.steps
        self.closed = [1 - setting.targets.get(g.atom, g.size) / g.size for g in groups]
        starts = [5 + 0.01 * torch.randn(g.size, generator=self.generator) for g in groups]
        self.loga = [s.clamp(-BOUND, BOUND).requires_grad_() for s in starts]
        self.multipliers = torch.zeros(2, len(groups), requires_grad=True)  # lambda, phi
        rate = setting.lr or RATE
        self.optimizer = torch.optim.AdamW(self.loga, rate, weight_decay=0.0)
        self.ascent = torch.optim.AdamW([self.multipliers], rate, weight_decay=0.0, maximize=True)

    def gates(self) -> dict[Axis, Any]:
        """z, drawn."""
        return {
            atom: sample(loga, self._uniform(loga)) for atom, loga in zip(self.atoms, self.loga, strict=True)
        }

    def _uniform(self, like: Any) -> Any:
        import torch

        return torch.rand(like.shape, generator=self.generator).clamp(1e-6, 1 - 1e-6)

    def penalty(self, step: int) -> Any:
        """lambda (s - t) + phi (s - t)^2 over the groups."""
        import torch

        closed = torch.stack([1 - open_chance(loga).mean() for loga in self.loga])
        over = closed - torch.tensor([target(c, step, self.steps) for c in self.closed])
        return (self.multipliers[0] * over + self.multipliers[1] * over.square()).sum()

    def update(self, step: int) -> None:
        """Gates down, multipliers up."""
        import torch

        for optimizer in (self.optimizer, self.ascent):
            optimizer.step()
        for optimizer in (self.optimizer, self.ascent):
            optimizer.zero_grad()
        with torch.no_grad():
            for loga in self.loga:
                loga.clamp_(-BOUND, BOUND)

    def scores(self) -> Scores:
        """The values of the gates."""
        return {a: value(x.detach()).double().numpy() for a, x in zip(self.atoms, self.loga, strict=True)}
