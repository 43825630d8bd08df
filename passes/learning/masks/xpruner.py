"""X-Pruner (Yu & Xiang 2023): a mask for every class, then a threshold for every layer under the budget.

    first part:   x -> x M[:, k] for samples of class k; M starts at 1
                  min  loss + 1e-4 |M[:, k]|_1 + 1e-4 |M[:, k] - mean over classes of M|^2
    score:        s_u = mean over classes of |M_uk|, what unit u explains of all classes
    second part:  x -> x sigmoid((s_u - theta_l) / tau), theta of layer l learns, M stays
                  min over theta, max over lambda >= 0:   loss + lambda e + 5 e^2,   e = cost / budget - 1

The cost counts each group by the sum of its gates. The entries of the largest (s_u - theta_l) over all layers and kinds
stay, as many as the budget allows. No code was published; the abstract names masks per class with sparsity and
smoothness, ranking by their absolute sum, and layer-wise thresholds searched under the cost. The form of the smoothness
term, all weights, the square of e (without it thresholds overshoot) and tau (half the scores' deviation) are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pruneopt.analysis.axes import Axis, Kind, find
from pruneopt.analysis.groups import Group
from pruneopt.errors import UsageError
from pruneopt.passes.learning.masks.method import Frozen, Scores, Setting
from pruneopt.passes.planning.tally import Limit

SPARSE, SMOOTH = 1e-4, 1e-4
REACH = 6.0  # how far a mask can move in all: lr times steps
FIRST = 0.6  # share of the steps for masks
SHARP = 0.5  # tau, in standard deviations of the scores
STEP = 0.1  # of a threshold, in tau
OPEN = 2.0  # how far below the least score thresholds start, in tau
ASCENT = 10.0  # lambda's rate times the steps of the second part
STIFF = 5.0  # weight of the excess's square


def penalty(mask: Any, others: Any) -> Any:
    """Of one class's mask, given the mean over classes; both of shape [units]."""
    return SPARSE * mask.abs().sum() + SMOOTH * (mask - others).square().sum()


def charged(over: Any, multiplier: float) -> Any:
    """What an excess over the budget costs."""
    return multiplier * over + STIFF * over**2


def opened(score: Any, threshold: Any, tau: float) -> Any:
    """Gates of a layer in the second part, shape [units]."""
    return ((score - threshold) / tau).sigmoid()


def climbed(multiplier: float, over: float, rate: float) -> float:
    """Lambda after a step: it rises where the cost is over the budget, and never falls below 0."""
    return max(0.0, multiplier + rate * over)


def cost(limit: Limit, sizes: Mapping[Axis, Any]) -> Any:
    """The cost of a budget where some atoms have sizes that are tensors; a scalar."""
    return sum(term.at([_size(axis, sizes) for axis in term.axes]) for term in limit.terms)


def _size(axis: Axis, sizes: Mapping[Axis, Any]) -> Any:
    axis = find(axis)
    if axis.kind is Kind.ATOM:
        return sizes.get(axis, float(axis.size[-1]))
    inner = [_size(each, sizes) for each in axis.items]
    if axis.kind is Kind.CONCAT:
        return sum(inner)
    whole = 1.0
    for each in inner:
        whole = whole * each
    return whole


class ClassMasks(Frozen):
    """The state of one search.

    Attributes:
        masks: for each group one for each class, shape [units].
        thresholds: one for each group, in tau above where they start; from the second part on.
        multiplier: lambda.
    """

    axes = "inner+heads"
    reads_any_ratio = False
    across = True
    by_class = True
    folds = False

    def __init__(self, groups: Sequence[Group], setting: Setting) -> None:
        import torch

        if any(limit.spans is not None for limit in setting.limits):
            raise UsageError("learn: x-pruner counts macs, params or bytes; give one of these budgets")
        self.atoms = [g.atom for g in groups]
        self.steps, self.limits = setting.steps, setting.limits
        self.switch = max(1, round(FIRST * setting.steps))
        self.masks = [
            [torch.ones(g.size, requires_grad=True) for _ in range(setting.classes)] for g in groups
        ]
        rate = setting.lr or REACH / setting.steps
        self.optimizer = torch.optim.AdamW([m for each in self.masks for m in each], rate, weight_decay=0.0)
        self.label, self.step, self.multiplier, self.tau = 0, 0, 0.0, 1.0
        self.means = [torch.ones(g.size) for g in groups]
        self.thresholds: list[Any] = []

    def meets(self, label: int) -> None:
        """The class of the samples to come."""
        self.label = label

    def gates(self) -> dict[Axis, Any]:
        """The masks of the class, then what the thresholds leave open."""
        if self.step < self.switch:
            return {atom: each[self.label] for atom, each in zip(self.atoms, self.masks, strict=True)}
        return {atom: opened(*pair, self.tau) for atom, pair in zip(self.atoms, self._pairs(), strict=True)}

    def penalty(self, step: int) -> Any:
        """Sparsity and smoothness, then the budgets' excess."""
        if self.step < self.switch:
            pairs = zip(self.masks, self.means, strict=True)
            return sum(penalty(each[self.label], mean) for each, mean in pairs)
        return charged(self._over(), self.multiplier)

    def update(self, step: int) -> None:
        """A step of the masks, or of the thresholds and of lambda."""
        import torch

        over = 0.0 if self.step < self.switch else float(self._over().detach())
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step = step + 1
        if self.step < self.switch:
            self.means = [torch.stack([m.detach() for m in each]).mean(0) for each in self.masks]
        elif self.step == self.switch:
            self._begin()
        else:
            rate = ASCENT / (self.steps - self.switch)
            self.multiplier = climbed(self.multiplier, over, rate)

    def _begin(self) -> None:
        """The second part: scores stay, thresholds start where all is open."""
        import torch

        self.means = [torch.stack([m.detach().abs() for m in each]).mean(0) for each in self.masks]
        every = torch.cat(self.means)
        self.tau = SHARP * max(float(every.std(correction=0)), 1e-3)
        self.least = float(every.min()) - OPEN * self.tau
        self.thresholds = [torch.zeros((), requires_grad=True) for _ in self.means]
        self.optimizer = torch.optim.AdamW(self.thresholds, STEP, weight_decay=0.0)

    def _pairs(self) -> list[tuple[Any, Any]]:
        """(scores, threshold) of each group."""
        places = [self.least + self.tau * each for each in self.thresholds]
        return list(zip(self.means, places, strict=True))

    def _over(self) -> Any:
        """The largest excess of a budget, as a share of it."""
        import torch

        sizes = {atom: gate.sum() for atom, gate in self.gates().items()}
        return torch.stack([cost(each, sizes) / each.most - 1 for each in self.limits]).max()

    def scores(self) -> Scores:
        """How far each unit is above its layer's threshold, in tau."""
        if not self.thresholds:
            self._begin()
        pairs = [(score, float(at.detach())) for score, at in self._pairs()]
        return {
            a: ((s - at) / self.tau).double().numpy() for a, (s, at) in zip(self.atoms, pairs, strict=True)
        }
