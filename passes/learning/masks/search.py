"""The search: gates move by a method's rule, over batches of calibration data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pruneopt.analysis.groups import Group
from pruneopt.analysis.infer import Analysis
from pruneopt.arrays import Feeds
from pruneopt.passes.learning.losses import loss_of
from pruneopt.passes.learning.masks.gates import Gated
from pruneopt.passes.learning.masks.method import Method, Setting
from pruneopt.passes.learning.net import Tensors
from pruneopt.passes.learning.outputs import distance, meanings
from pruneopt.passes.runtime import Progress

TOLD = 50  # steps between two lines of progress


def search(
    analysis: Analysis,
    groups: Sequence[Group],
    start: Callable[[Sequence[Group], Setting], Method],
    setting: Setting,
    batches: Sequence[tuple[int, Feeds]],
    loss: str | None,
    progress: Progress,
) -> tuple[Method, list[float]]:
    """Run a method from its start.

    Args:
        analysis: of the model; its weights stay.
        groups: those that get gates.
        start: makes the method's first state.
        setting: steps and the like.
        batches: each with its class, 0 where they do not come by class; drawn in random order, each once before any
            comes again.
        loss: `module:function` (see `learning.losses`), or None for the distance to the dense model's outputs.
        progress: told the loss now and then.

    Returns:
        The method's last state, and the loss of every step without the penalty.
    """
    gated, method = Gated(analysis, [g.atom for g in groups]), start(groups, setting)
    for parameter in gated.net.module.parameters():
        parameter.requires_grad_(False)
    cost = _Cost(gated, analysis, loss, setting.seed, method.needs_slope)
    rng, order, told = np.random.default_rng(setting.seed), list[int](), list[float]()
    for step in range(setting.steps):
        order = order or rng.permutation(len(batches)).tolist()
        at = order.pop()
        label, feeds = batches[at]
        method.meets(label)
        outputs = gated.run(feeds, method.gates(), method.changed(gated.net.weights))
        value = cost(outputs, feeds, at)
        (value + method.penalty(step)).backward()
        method.update(step)
        told.append(float(value.detach()))
        if step % TOLD == 0:
            progress(f"learn (step {step} of {setting.steps}, loss {told[-1]:.4g})")
    return method, told


class _Cost:
    """The loss of a batch; what the dense model makes of it is kept.

    Where a slope is needed, the distance has its curvature's draws beside it (`learning.losses`).
    """

    def __init__(self, gated: Gated, analysis: Analysis, loss: str | None, seed: int, slope: bool) -> None:
        self.gated = gated
        self.kinds = meanings(analysis.model)
        self.given = None if loss is None else loss_of(loss, analysis.model, seed)
        self.draws = loss_of(None, analysis.model, seed) if slope else None
        self.dense: dict[int, Tensors] = {}

    def __call__(self, outputs: Tensors, feeds: Feeds, at: int) -> Any:
        import torch

        if self.given is not None:
            return self.given(outputs, feeds)
        if at not in self.dense:
            with torch.no_grad():
                self.dense[at] = self.gated.run(feeds, {})
        moved = distance(outputs, self.dense[at], self.kinds)
        return moved if self.draws is None else moved + self.draws(outputs, feeds)
