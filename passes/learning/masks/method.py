"""What a way to learn gates is: where they start, what they cost, how they move, and what they are worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pruneopt.analysis.axes import Axis
from pruneopt.arrays import Array
from pruneopt.passes.learning.net import Tensors
from pruneopt.passes.planning.tally import Limit

Scores = dict[Axis, npt.NDArray[np.float64]]


@dataclass(frozen=True)
class Setting:
    """What a search is told.

    Attributes:
        steps: how many there are.
        lr: of the gates, or None for the method's own.
        label_free: the loss is the distance to the dense model's outputs.
        kinds: of each atom, as `passes.planning.kinds` names them.
        targets: entries that are to stay of each atom, for methods that must know before.
        limits: the budgets.
        classes: how many there are, for methods that go by class.
        seed: of what is random.
    """

    steps: int
    lr: float | None = None
    label_free: bool = True
    kinds: Mapping[Axis, str] = field(default_factory=dict)
    targets: Mapping[Axis, int] = field(default_factory=dict)
    limits: Sequence[Limit] = ()
    classes: int = 1
    seed: int = 0


class Frozen:
    """What methods have in common that leave the weights as they are."""

    needs_slope = False
    across = False
    by_class = False

    def meets(self, label: int) -> None:
        """It makes no difference."""

    def changed(self, weights: Tensors) -> Tensors:
        """None."""
        return {}

    def adapted(self) -> dict[str, Array]:
        """None."""
        return {}


class Method(Protocol):
    """The state of one search; made from the groups and a `Setting`.

    Attributes:
        axes: kinds of widths that the published method has gates on.
        reads_any_ratio: its scores serve every budget; else it learns for one.
        across: its scores compare entries of all kinds, for the budget that it has learned for.
        by_class: samples of one class come at a time.
        folds: the values of gates that stay become part of the weights.
        needs_slope: it reads the loss's gradient at the dense model, where that of a distance is zero.
    """

    axes: str
    reads_any_ratio: bool
    across: bool
    by_class: bool
    folds: bool
    needs_slope: bool

    def meets(self, label: int) -> None:
        """Which class the samples of this step are of, where they come by class."""

    def gates(self) -> dict[Axis, Any]:
        """The gates of this step by atom, differentiable; drawn anew at each call where they are random."""

    def changed(self, weights: Tensors) -> Tensors:
        """Weights that stand in for the model's own, by name; empty where these stay."""

    def penalty(self, step: int) -> Any:
        """What is added to the loss in step 0, 1, ...; a scalar."""

    def update(self, step: int) -> None:
        """Move, after gradients have been taken."""

    def scores(self) -> Scores:
        """What every entry is worth now: larger stays. Shape [size of the atom]."""

    def adapted(self) -> dict[str, Array]:
        """Weights that have learned with the gates, by name, at full size."""
