"""Losses to take gradients of: the user's own, labels, pseudo-labels, or draws of the distance's curvature.

At the dense model the distance to its own outputs is zero and so is its gradient. Its second-order term is not: half
of w' J' H J w, with J the outputs' Jacobian and H the distance's Hessian. A loss <u, y> with random u of covariance H
has gradients whose mean square is that term (Martens 2020, "New insights and perspectives on the natural gradient
method"). For squared distance u is normal; for the KL divergence H = diag(p) - p p', and u = r o z - p <r, z> with
normal z and r the roots of p. A class drawn from p has the same covariance, but where the model is sure of itself
nearly all of it is in draws that hardly ever come.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from pruneopt.arrays import Feeds
from pruneopt.errors import UsageError
from pruneopt.model import Model
from pruneopt.passes.learning.labels import classes
from pruneopt.passes.learning.net import Tensors
from pruneopt.passes.learning.outputs import Meaning, log_probabilities, meanings

Loss = Callable[[Tensors, Feeds], Any]  # (outputs by name, batch) -> scalar tensor


def loss_of(spec: str | None, model: Model, seed: int) -> Loss:
    """The loss that `spec` names.

    Args:
        spec: `module:function`, called with (outputs by name, batch) and returning a scalar tensor; labels are
            further arrays in the batch. `labels`: cross-entropy to the classes in the batch (`learning.labels`).
            `argmax`: the same to the model's own likeliest class. None: draws.
        model: the model whose outputs they are.
        seed: of the draws.

    Raises:
        UsageError: there is no such function, or no output that is classes.
    """
    if spec is None:
        return _Draws(model, seed)
    if spec in ("argmax", "labels"):
        return _Classes(model, spec)
    module, _, function = spec.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        found: Loss = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"loss={spec} is neither labels nor argmax nor a MODULE:FUNCTION: {error}") from None
    finally:
        sys.path.remove(os.getcwd())
    return found


class _Classes:
    """Cross-entropy to the batch's classes, or to the likeliest ones: self-training's pseudo-labels (Lee 2013)."""

    def __init__(self, model: Model, spec: str) -> None:
        self.model, self.spec = model, spec
        self.kinds = {n: k for n, k in meanings(model).items() if k is not Meaning.VECTOR}
        if not self.kinds:
            raise UsageError(f"loss={spec} needs an output of classes, and the model has none; leave it out")

    def __call__(self, outputs: Tensors, feeds: Feeds) -> Any:
        return sum(self._loss(log_probabilities(outputs[n], k), feeds) for n, k in self.kinds.items())

    def _loss(self, logs: Any, feeds: Feeds) -> Any:
        import torch

        if self.spec == "argmax":
            return -logs.max(-1).values.mean()
        found = torch.from_numpy(classes(self.model, feeds)).to(logs.device)
        if len(found) != len(logs) or int(found.max()) >= logs.shape[-1] or int(found.min()) < 0:
            raise UsageError(
                f"loss=labels: {len(found)} labels up to {int(found.max())} do not fit outputs {list(logs.shape)}"
            )
        return -logs.gather(1, found[:, None]).mean()


class _Draws:
    """<u, y> with u of the distance's Hessian as covariance, anew for every call."""

    def __init__(self, model: Model, seed: int) -> None:
        import torch

        self.kinds = meanings(model)
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, outputs: Tensors, feeds: Feeds) -> Any:
        return sum(self._draw(outputs[name], kind) for name, kind in self.kinds.items())

    def _draw(self, tensor: Any, kind: Meaning) -> Any:
        import torch

        if kind is Meaning.VECTOR:
            u = torch.randn(tensor.shape, generator=self.generator).to(tensor.device)
            return (u * tensor).sum() / tensor.detach().norm().clamp_min(1e-12)
        logs = log_probabilities(tensor, kind)
        roots = (logs.detach() / 2).exp()
        drawn = roots * torch.randn(logs.shape, generator=self.generator).to(logs.device)
        u = drawn - roots.square() * (roots * drawn).sum(-1, keepdim=True)
        return (u * logs).sum() / len(logs) ** 0.5
