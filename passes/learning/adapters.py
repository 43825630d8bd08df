"""What learns: the weights themselves, or low-rank changes of the matrices among them that are folded in later."""

from __future__ import annotations

from math import prod
from typing import Any, Protocol

from pruneopt.errors import PruneoptError
from pruneopt.passes.learning.net import Net, Tensors

FLOOR = (
    0.01  # root mean square below which a weight moves as if it had this: biases at zero have to get going
)


class Learner(Protocol):
    """What an optimiser works on."""

    def groups(self, rate: float) -> list[dict[str, Any]]:
        """Parameter groups for the optimiser, each with its own learning rate."""

    def changed(self) -> Tensors:
        """The weights to run with, by their names in the model, where they are not the module's own."""

    def parts(self) -> list[Any]:
        """The tensors that learn, in a fixed order."""

    def fold(self) -> None:
        """Put what was learned into the module's own weights."""


def relative_rate(rate: float, tensor: Any) -> float:
    """Rates are shares of a weight's root mean square (Shazeer & Stern 2018): one fits nets of any scale."""
    return rate * max(float(tensor.detach().float().square().mean().sqrt()), FLOOR)


def nonzeros(weight: Any) -> Any:
    """One where a matrix is not exactly zero, or None where it never is."""
    found = weight.detach() != 0
    return None if weight.ndim < 2 or bool(found.all()) else found.to(weight.dtype)


def learning(net: Net) -> Tensors:
    """All weights but tables: a batch sees few of their rows, and Adam moves rare ones as far as any. By name."""
    for name in net.tables:
        net.weights[name].requires_grad_(False)
    return {name: weight for name, weight in net.weights.items() if name not in net.tables}


class Full:
    """All weights learn; zeros in matrices stay zero, for a pass may have put them there."""

    def __init__(self, net: Net) -> None:
        self.weights = learning(net)
        for weight in self.weights.values():
            kept = nonzeros(weight)
            if kept is not None:
                weight.register_hook(lambda gradient, kept=kept: gradient * kept)

    def groups(self, rate: float) -> list[dict[str, Any]]:
        return [{"params": [w], "lr": relative_rate(rate, w)} for w in self.weights.values()]

    def changed(self) -> Tensors:
        return {}

    def parts(self) -> list[Any]:
        return list(self.weights.values())

    def fold(self) -> None:
        """They are there."""


class LowRank:
    """W + B A of a small rank for every matrix (Hu et al. 2022); convolutions as matrices [outputs, the rest].

    B starts at zero, so that the model starts where it is. Matrices for which a full change would be as cheap stay
    as they are. Raises PruneoptError where no matrix is left.
    """

    def __init__(self, net: Net, rank: int, seed: int) -> None:
        import torch

        self.rank = rank
        self.weights = {
            name: w
            for name, w in learning(net).items()
            if w.ndim >= 2 and min(w.shape[0], prod(w.shape[1:])) > 2 * rank
        }
        if not self.weights:
            raise PruneoptError(f"recover: no matrix is larger than lora={rank} twice; choose a smaller rank")
        self.kept = {name: nonzeros(w) for name, w in self.weights.items()}
        generator = torch.Generator().manual_seed(seed)
        self.pairs: dict[str, tuple[Any, Any]] = {}
        for name, weight in self.weights.items():
            rest = prod(weight.shape[1:])
            down = torch.randn(rank, rest, generator=generator) / rest**0.5
            up = torch.zeros(weight.shape[0], rank)
            made = [each.to(weight.device).requires_grad_() for each in (up, down)]
            self.pairs[name] = (made[0], made[1])

    def groups(self, rate: float) -> list[dict[str, Any]]:
        """Rates by which B A moves by the same share of W per step as W itself would."""
        found = []
        for name, (up, down) in self.pairs.items():
            gain = (down.shape[1] / self.rank) ** 0.5
            found.append({"params": [up], "lr": relative_rate(rate, self.weights[name]) * gain})
            found.append({"params": [down], "lr": relative_rate(rate, down)})
        return found

    def changed(self) -> Tensors:
        return {name: self._sum(name) for name in self.pairs}

    def _sum(self, name: str) -> Any:
        up, down = self.pairs[name]
        change = (up @ down).reshape(self.weights[name].shape)
        kept = self.kept[name]
        return self.weights[name].detach() + (change if kept is None else change * kept)

    def parts(self) -> list[Any]:
        return [each for pair in self.pairs.values() for each in pair]

    def fold(self) -> None:
        """W becomes W + B A, and B zero."""
        import torch

        with torch.no_grad():
            for name, tensor in self.changed().items():
                self.weights[name].copy_(tensor)
                self.pairs[name][0].zero_()
