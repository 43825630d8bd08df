"""What RNN, GRU and LSTM share: a layer of one or two directions that is run step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pruneopt.backends.torch.values import alike
from pruneopt.errors import PruneoptError

Activation = Callable[[Tensor], Tensor]
State = tuple[Tensor, ...]
Step = Callable[[Tensor, State], State]


def _activation(name: str, alpha: float | None, beta: float | None) -> Activation:
    functions: dict[str, Activation] = {
        "affine": lambda x: (1.0 if alpha is None else alpha) * x + (0.0 if beta is None else beta),
        "elu": lambda x: F.elu(x, 1.0 if alpha is None else alpha),
        "hardsigmoid": lambda x: torch.clamp(
            (0.2 if alpha is None else alpha) * x + (0.5 if beta is None else beta), 0, 1
        ),
        "leakyrelu": lambda x: F.leaky_relu(x, 0.01 if alpha is None else alpha),
        "relu": torch.relu,
        "scaledtanh": lambda x: (
            (1.0 if alpha is None else alpha) * torch.tanh((1.0 if beta is None else beta) * x)
        ),
        "sigmoid": torch.sigmoid,
        "softplus": F.softplus,
        "softsign": F.softsign,
        "tanh": torch.tanh,
        "thresholdedrelu": lambda x: F.threshold(x, 1.0 if alpha is None else alpha, 0.0),
    }
    if name.lower() not in functions:
        raise PruneoptError(f"the activation '{name}' of a recurrent op is not known")
    return functions[name.lower()]


@dataclass(frozen=True)
class Layer:
    """Inputs and attributes that RNN, GRU and LSTM share, `time batch width` inside."""

    x: Tensor
    weights: Sequence[Tensor | None]  # W, R and B, directions first
    lengths: Tensor | None
    direction: str
    hidden: int
    batch_first: int
    clip: float | None
    functions: list[Activation]  # one set per direction

    @property
    def count(self) -> int:
        """Number of directions."""
        return 2 if self.direction == "bidirectional" else 1

    def clipped(self, x: Tensor) -> Tensor:
        """Gates within the clip."""
        return x if self.clip is None else x.clamp(-self.clip, self.clip)

    def start(self, given: Tensor | None, d: int) -> Tensor:
        """The first state of one direction, `batch hidden`."""
        if given is None:
            return self.x.new_zeros(self.x.shape[1], self.hidden)
        return given[:, d] if self.batch_first else given[d]

    def part(self, which: int, d: int) -> Tensor:
        """W, R or B of one direction; biases default to zero."""
        found = self.weights[which]
        if found is not None:
            return found[d]
        weight = self.weights[0]
        assert weight is not None
        return weight.new_zeros(2 * weight.shape[1])

    def run(self, step: Callable[[int], Step], starts: Callable[[int], State]) -> tuple[Tensor, list[State]]:
        """All directions: outputs `time directions batch hidden`, and last states of each direction."""
        outputs, finals = [], []
        for d in range(self.count):
            back = self.direction == "reverse" or d == 1
            seen, last = self._one(step(d), starts(d), back)
            outputs.append(seen)
            finals.append(last)
        return torch.stack(outputs, 1), finals

    def _one(self, step: Step, state: State, back: bool) -> tuple[Tensor, State]:
        steps = self.x.shape[0]
        outputs: list[Tensor] = [state[0]] * steps
        for t in range(steps)[:: -1 if back else 1]:
            new = step(self.x[t], state)
            if self.lengths is None:
                state, outputs[t] = new, new[0]
                continue
            runs = (t < self.lengths)[:, None]
            state = tuple(torch.where(runs, n, s) for n, s in zip(new, state, strict=True))
            outputs[t] = torch.where(runs, new[0], torch.zeros_like(new[0]))
        return torch.stack(outputs), state

    def placed(self, outputs: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Outputs and last states, `directions batch hidden`, in the layout that the node asks for."""
        if not self.batch_first:
            return (outputs, *states)
        return (outputs.permute(2, 0, 1, 3), *(s.transpose(0, 1) for s in states))


def layer_of(
    x: Tensor,
    weights: Sequence[Tensor | None],
    lengths: Tensor | None,
    attributes: dict[str, Any],
    defaults: list[str],
) -> Layer:
    """The layer of a node; `defaults` are its activations."""
    direction = attributes.get("direction", "forward")
    names = attributes.get("activations") or defaults * (2 if direction == "bidirectional" else 1)
    alphas = iter(attributes.get("activation_alpha") or [])
    betas = iter(attributes.get("activation_beta") or [])
    functions = [
        _activation(
            name,
            next(alphas, None) if name.lower() in _WITH_ALPHA else None,
            next(betas, None) if name.lower() in _WITH_BETA else None,
        )
        for name in names
    ]
    layout = attributes.get("layout", 0)
    first = x.transpose(0, 1) if layout else x
    first, *weights = alike(first, *weights)
    lengths = None if lengths is None else lengths.to(first.device)
    recurrent = weights[1]
    assert recurrent is not None
    return Layer(
        first, weights, lengths, direction, recurrent.shape[-1], layout, attributes.get("clip"), functions
    )


_WITH_ALPHA = {"affine", "elu", "hardsigmoid", "leakyrelu", "scaledtanh", "thresholdedrelu"}
_WITH_BETA = {"affine", "hardsigmoid", "scaledtanh"}
