"""LoRAPrune (Zhang et al. 2024): importance from the gradients of adapters alone, while they learn.

    g^ = g_B A + B g_A - g_B g_A                     the change of B A by a step, in place of the weight's gradient
    s  = |g^ * (W + scale B A)|                      per element, scale = alpha / r
    group: sum of s over what goes with an entry, each weight's vector over its L2 norm, summed over the weights
    I <- 0.9 I + 0.1 s                               at every step

Every ten steps each group closes its entries of least I, as many as a cubic schedule says: 0 for the first tenth of
the steps, the target in the last. Closed entries stay out of the forward pass, and open again where I says so. r = 8,
alpha = 16, Adam at 1e-4; the adapters become part of the weights. The published method leaves the first tenth of the
layers and the last layer as they are; `only` and `--keep` do that. Only matrices have adapters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pruneopt.analysis.axes import Axis
from pruneopt.analysis.cost import is_weight
from pruneopt.analysis.groups import Group, Touch
from pruneopt.analysis.masks import pull_back
from pruneopt.arrays import Array
from pruneopt.passes.learning.masks.method import Scores, Setting
from pruneopt.passes.learning.net import Tensors

RANK = 8
ALPHA = 16.0
RATE = 1e-4
OLD = 0.9  # of the moving average
EVERY = 10
WARM, COOL = 0.1, 0.1


def estimate(a: Any, b: Any, grad_a: Any, grad_b: Any) -> Any:
    """g^, shape of the weight: b is [rows, r], a is [r, columns]."""
    return grad_b @ a + b @ grad_a - grad_b @ grad_a


def closed_share(step: int, steps: int) -> float:
    """How much of the target is closed at a step, in [0, 1]."""
    progress = (step / steps - WARM) / (1 - WARM - COOL)
    return 1 - (1 - min(1.0, max(0.0, progress))) ** 3


class Adapted:
    """The state of one search."""

    axes = "inner+heads"
    reads_any_ratio = False
    across = False
    by_class = False
    folds = False
    needs_slope = True

    def __init__(self, groups: Sequence[Group], setting: Setting) -> None:
        import torch

        self.groups = groups
        self.steps = setting.steps
        self.rate = setting.lr or RATE
        self.targets = {g: setting.targets.get(g.atom, g.size) for g in groups}
        self.open = {g.atom: torch.ones(g.size) for g in groups}
        self.average = {g: np.zeros(g.size) for g in groups}
        self.generator = torch.Generator().manual_seed(setting.seed)
        self.weights: Tensors = {}
        self.a: Tensors = {}
        self.b: Tensors = {}
        self.optimizer: Any = None

    def meets(self, label: int) -> None:
        """It makes no difference."""

    def gates(self) -> dict[Axis, Any]:
        """1 where open, else 0."""
        return dict(self.open)

    def changed(self, weights: Tensors) -> Tensors:
        """W + scale B A of every matrix that a group touches."""
        if self.optimizer is None:
            self._adapt(weights)
        return {name: w + ALPHA / RANK * (self.b[name] @ self.a[name]) for name, w in self.weights.items()}

    def _adapt(self, weights: Tensors) -> None:
        import torch

        names = {t.use.constant.name for g in self.groups for t in g.touches if is_weight(t.use)}
        self.weights = {n: w for n, w in weights.items() if n in names and w.ndim == 2}
        for name, weight in self.weights.items():
            rows, columns = weight.shape
            start = torch.randn(RANK, columns, generator=self.generator) / columns**0.5
            self.a[name] = start.requires_grad_()
            self.b[name] = torch.zeros(rows, RANK, requires_grad=True)
        self.optimizer = torch.optim.AdamW([*self.a.values(), *self.b.values()], self.rate, weight_decay=0.0)

    def penalty(self, step: int) -> Any:
        """Nothing."""
        return 0.0

    def update(self, step: int) -> None:
        """The moving average, then a step of the adapters, then the gates."""
        elements = {name: self._elements(name) for name in self.weights}
        for group in self.groups:
            self.average[group] = OLD * self.average[group] + (1 - OLD) * importance(group, elements)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if (step + 1) % EVERY == 0:
            for group in self.groups:
                self._close(group, step + 1)

    def _elements(self, name: str) -> npt.NDArray[np.float64]:
        a, b = self.a[name], self.b[name]
        merged = self.weights[name] + ALPHA / RANK * (b @ a)
        found = (estimate(a, b, a.grad, b.grad) * merged).abs().detach().double().numpy()
        return np.asarray(found)

    def _close(self, group: Group, step: int) -> None:
        import torch

        count = round((group.size - self.targets[group]) * closed_share(step, self.steps))
        gate = torch.ones(group.size)
        gate[torch.from_numpy(np.argsort(self.average[group], kind="stable")[:count].copy())] = 0
        self.open[group.atom] = gate

    def scores(self) -> Scores:
        """The moving averages."""
        return {g.atom: self.average[g] for g in self.groups}

    def adapted(self) -> dict[str, Array]:
        """The weights with their adapters, by name, at full size."""
        return {name: tensor.detach().numpy() for name, tensor in self.changed({}).items()}


def importance(group: Group, elements: dict[str, npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
    """Sums over a group's entries of each weight's elements, over their L2 norm, added up. Shape [size]."""
    total = np.zeros(group.size)
    for touch in group.touches:
        if touch.use.constant.name in elements:
            vector = _onto(touch, group, elements[touch.use.constant.name])
            total += vector / (np.linalg.norm(vector) or 1.0)
    return total


def _onto(touch: Touch, group: Group, elements: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    others = tuple(d for d in range(elements.ndim) if d != touch.dim)
    return pull_back(touch.axis, group.atom, elements.sum(others))
