"""RNN, GRU and LSTM: step by step as the standard says, or as one call of PyTorch where that is the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pruneopt.backends.torch.table import op
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


def _layer(
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


@op("RNN", several=True)
def rnn(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    lengths: Tensor | None = None,
    initial_h: Tensor | None = None,
    **attributes: Any,
) -> tuple[Tensor, ...]:
    """h = f(W x + R h + b)."""
    layer = _layer(x, (w, r, b), lengths, attributes, ["Tanh"])

    def step(d: int) -> Step:
        weight, recurrent, bias = (layer.part(i, d) for i in range(3))
        half = bias.shape[0] // 2

        def one(x: Tensor, state: State) -> State:
            return (
                layer.functions[d](
                    layer.clipped(
                        F.linear(x, weight, bias[:half]) + F.linear(state[0], recurrent, bias[half:])
                    )
                ),
            )

        return one

    outputs, finals = layer.run(step, lambda d: (layer.start(initial_h, d),))
    return layer.placed(outputs, torch.stack([f[0] for f in finals]))


@op("GRU", several=True)
def gru(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    lengths: Tensor | None = None,
    initial_h: Tensor | None = None,
    *,
    linear_before_reset: int = 0,
    **attributes: Any,
) -> tuple[Tensor, ...]:
    """Gates in the order z, r, h."""
    layer = _layer(x, (w, r, b), lengths, attributes, ["Sigmoid", "Tanh"])
    if linear_before_reset and _is_plain(layer, attributes):
        return _fused(layer, torch.gru, [1, 0, 2], [initial_h])
    n = layer.hidden

    def step(d: int) -> Step:
        weight, recurrent, bias = (layer.part(i, d) for i in range(3))
        gate, new = layer.functions[2 * d : 2 * d + 2]
        before, after = bias[: 3 * n], bias[3 * n :]

        def one(x: Tensor, state: State) -> State:
            (h,) = state
            seen = F.linear(x, weight, before)
            past = F.linear(h, recurrent[: 2 * n], after[: 2 * n])
            z = gate(layer.clipped(seen[:, :n] + past[:, :n]))
            reset = gate(layer.clipped(seen[:, n : 2 * n] + past[:, n:]))
            if linear_before_reset:
                inner = reset * F.linear(h, recurrent[2 * n :], after[2 * n :])
            else:
                inner = F.linear(reset * h, recurrent[2 * n :], after[2 * n :])
            return ((1 - z) * new(layer.clipped(seen[:, 2 * n :] + inner)) + z * h,)

        return one

    outputs, finals = layer.run(step, lambda d: (layer.start(initial_h, d),))
    return layer.placed(outputs, torch.stack([f[0] for f in finals]))


@op("LSTM", several=True)
def lstm(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    lengths: Tensor | None = None,
    initial_h: Tensor | None = None,
    initial_c: Tensor | None = None,
    peepholes: Tensor | None = None,
    *,
    input_forget: int = 0,
    **attributes: Any,
) -> tuple[Tensor, ...]:
    """Gates in the order i, o, f, c; `peepholes` in the order i, o, f."""
    layer = _layer(x, (w, r, b), lengths, attributes, ["Sigmoid", "Tanh", "Tanh"])
    if peepholes is None and not input_forget and _is_plain(layer, attributes):
        return _fused(layer, torch.lstm, [0, 2, 3, 1], [initial_h, initial_c])
    n = layer.hidden

    def step(d: int) -> Step:
        weight, recurrent, bias = (layer.part(i, d) for i in range(3))
        gate, new, out = layer.functions[3 * d : 3 * d + 3]
        peep = layer.x.new_zeros(3 * n) if peepholes is None else peepholes[d]

        def one(x: Tensor, state: State) -> State:
            h, c = state
            seen = F.linear(x, weight, bias[: 4 * n]) + F.linear(h, recurrent, bias[4 * n :])
            i, o, f, g = torch.split(seen, n, 1)
            i = gate(layer.clipped(i + peep[:n] * c))
            f = 1 - i if input_forget else gate(layer.clipped(f + peep[2 * n :] * c))
            c = f * c + i * new(layer.clipped(g))
            o = gate(layer.clipped(o + peep[n : 2 * n] * c))
            return o * out(c), c

        return one

    outputs, finals = layer.run(step, lambda d: (layer.start(initial_h, d), layer.start(initial_c, d)))
    return layer.placed(outputs, *(torch.stack([f[i] for f in finals]) for i in range(2)))


def _is_plain(layer: Layer, attributes: dict[str, Any]) -> bool:
    """Whether PyTorch's own function computes the same."""
    special = attributes.get("activations") or layer.clip is not None or layer.lengths is not None
    return not special and layer.direction != "reverse"


def _fused(layer: Layer, function: Any, order: list[int], starts: list[Tensor | None]) -> tuple[Tensor, ...]:
    """One call of PyTorch, whose gates come in another order."""
    flat: list[Tensor] = []
    for d in range(layer.count):
        bias = layer.part(2, d).chunk(2)
        for part in (layer.part(0, d), layer.part(1, d), *bias):
            gates = part.chunk(len(order))
            flat.append(torch.cat([gates[g] for g in order]))
    states = [torch.stack([layer.start(s, d) for d in range(layer.count)]) for s in starts]
    first = states if len(states) > 1 else states[0]
    found, *finals = function(layer.x, first, flat, True, 1, 0.0, False, layer.count == 2, False)
    steps, batch = layer.x.shape[:2]
    outputs = found.reshape(steps, batch, layer.count, layer.hidden).transpose(1, 2)
    return layer.placed(outputs, *finals)
