"""ViT-Slim (Chavan et al. 2022): gates under an l1 penalty; what shrinks most goes, by one threshold for each kind.

    min  loss + 2e-4 |z attention|_1 + 5e-5 |z neurons|_1,   z starts at 1, AdamW with weight decay 1e-3

The order is that of |z|. The paper trains weights and gates for 50 epochs at 5e-4; here the weights stay, and the
gates move faster in the fewer steps. Its attention gates differ from head to head; one atom is shared by all heads,
which stay of equal size. Gates of patches are the pass `length`'s affair.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pruneopt.analysis.axes import Axis
from pruneopt.analysis.groups import Group
from pruneopt.passes.learning.masks.method import Frozen, Scores, Setting

ATTENTION, NEURONS = 2e-4, 5e-5
DECAY = 1e-3
REACH = 6.0  # how far a gate can move in all: lr times steps


def l1(gates: Sequence[Any], weights: Sequence[float]) -> Any:
    """The sum of each one's weight times its l1 norm."""
    return sum(weight * gate.abs().sum() for gate, weight in zip(gates, weights, strict=True))


class Shrinkage(Frozen):
    """The state of one search."""

    axes = "inner+score+value"
    reads_any_ratio = True
    folds = False

    def __init__(self, groups: Sequence[Group], setting: Setting) -> None:
        import torch

        self.atoms = [g.atom for g in groups]
        self.weights = [NEURONS if setting.kinds.get(a) == "inner" else ATTENTION for a in self.atoms]
        self.z = [torch.ones(g.size, requires_grad=True) for g in groups]
        self.optimizer = torch.optim.AdamW(self.z, setting.lr or REACH / setting.steps, weight_decay=DECAY)

    def gates(self) -> dict[Axis, Any]:
        """z."""
        return dict(zip(self.atoms, self.z, strict=True))

    def penalty(self, step: int) -> Any:
        """The l1 norms, each kind with its weight."""
        return l1(self.z, self.weights)

    def update(self, step: int) -> None:
        """One step of AdamW."""
        self.optimizer.step()
        self.optimizer.zero_grad()

    def scores(self) -> Scores:
        """|z|."""
        return {a: z.detach().abs().double().numpy() for a, z in zip(self.atoms, self.z, strict=True)}
