"""RNN, GRU and LSTM: step by step as the standard says, or as one call of PyTorch where that is the same."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pruneopt.backends.torch.recurrence import Layer, State, Step, layer_of
from pruneopt.backends.torch.table import op


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
    layer = layer_of(x, (w, r, b), lengths, attributes, ["Tanh"])

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
    layer = layer_of(x, (w, r, b), lengths, attributes, ["Sigmoid", "Tanh"])
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
    layer = layer_of(x, (w, r, b), lengths, attributes, ["Sigmoid", "Tanh", "Tanh"])
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
