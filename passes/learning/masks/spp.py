"""Solution paths (SPP, Ding et al. 2025): one search gives an order, from which any ratio is read afterwards.

Split linearised Bregman iteration on gates M with a sparse companion Gamma, after DessiLBI (Fu et al. 2020):

    M <- M - Adam(dL/dM + (M - Gamma) / nu)
    Z <- Z + lr_t (M - Gamma),   lr_t = lr / (1 - beta1^t)
    Gamma <- max(0, (1 - lambda / |Z|)+ Z)

with lambda = 3 and Adam's eps = 1e-4. Gamma starts empty, and entries that matter enter first; every `INTERVAL` steps
each one that is in counts a step more. The released code leaves the coupling (M - Gamma) / nu out of the gradient,
which a task loss allows. The distance to the dense model's outputs has no gradient at M = 1: then the coupling of the
published dynamics is what moves the gates, with nu the number of entries, so that it weighs as much as one loss.
The weights stay. The gates are at the contraction: a neuron's after its activation, not before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pruneopt.analysis.axes import Axis
from pruneopt.analysis.groups import Group
from pruneopt.passes.learning.masks.method import Frozen, Setting

LAMBDA = 3.0
BETA1 = 0.9
EPS = 1e-4
INTERVAL = 10


def step_z(z: Any, m: Any, gamma: Any, lr: float, t: int) -> Any:
    """Z after step t = 1, 2, ...: Z + lr_t (M - Gamma)."""
    return z + lr / (1 - BETA1**t) * (m - gamma)


def shrink_z(z: Any) -> Any:
    """Gamma of Z: soft threshold at lambda, negative ones out."""
    import torch

    return torch.clamp_min(torch.clamp_min(1 - LAMBDA / z.abs().clamp_min(1e-12), 0) * z, 0)


class SolutionPath(Frozen):
    """The state of one search.

    Attributes:
        entered: for each record, how many entries of each group were in; the path.
    """

    axes = "inner+score+value"
    reads_any_ratio = True
    folds = False

    def __init__(self, groups: Sequence[Group], setting: Setting) -> None:
        import torch

        self.atoms = [g.atom for g in groups]
        self.lr = setting.lr or 2 * LAMBDA / setting.steps  # gates of 1 enter half-way; 1e-3 at 6000 steps
        self.nu = float(sum(g.size for g in groups)) if setting.label_free else float("inf")
        self.m = [torch.ones(g.size, requires_grad=True) for g in groups]
        self.z = [torch.zeros(g.size) for g in groups]
        self.gamma = [torch.zeros(g.size) for g in groups]
        self.record = [torch.zeros(g.size) for g in groups]
        self.entered: list[list[int]] = []
        self.optimizer = torch.optim.AdamW(self.m, self.lr, (BETA1, 0.999), EPS, weight_decay=0.0)

    def gates(self) -> dict[Axis, Any]:
        """M."""
        return dict(zip(self.atoms, self.m, strict=True))

    def penalty(self, step: int) -> Any:
        """|M - Gamma|^2 / 2 nu."""
        pairs = zip(self.m, self.gamma, strict=True)
        return sum((m - gamma).square().sum() for m, gamma in pairs) / (2 * self.nu)

    def update(self, step: int) -> None:
        """Gates, then Z, then Gamma, then the record."""
        self.optimizer.step()
        self.optimizer.zero_grad()
        for i, m in enumerate(self.m):
            self.z[i] = step_z(self.z[i], m.detach(), self.gamma[i], self.lr, step + 1)
            self.gamma[i] = shrink_z(self.z[i])
        if (step + 1) % INTERVAL == 0:
            for i, gamma in enumerate(self.gamma):
                self.record[i] += gamma != 0
            self.entered.append([int((g != 0).sum()) for g in self.gamma])

    def scores(self) -> dict[Axis, npt.NDArray[np.float64]]:
        """Steps since an entry came in; of equals, the one whose Z is further."""
        top = max(float(z.abs().max()) for z in self.z) or 1.0
        return {
            atom: (record + z / (2.5 * top)).double().numpy()
            for atom, record, z in zip(self.atoms, self.record, self.z, strict=True)
        }
