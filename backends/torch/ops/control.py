"""If, Loop and Scan: a body arrives as its module and what it captures from around it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pruneopt.backends.torch.table import op
from pruneopt.backends.torch.values import number, together

Body = tuple[Any, tuple[Any, ...]]


def _call(body: Body, *inputs: Any) -> tuple[Any, ...]:
    module, captured = body
    found: tuple[Any, ...] = module(*inputs, *captured)
    return found


@op("If", several=True)
def branch(condition: Tensor, *, then_branch: Body, else_branch: Body) -> tuple[Any, ...]:
    """The outputs of one of two bodies."""
    return _call(then_branch if bool(number(condition)) else else_branch)


@op("Loop", several=True)
def loop(count: Any, condition: Any, *states: Any, body: Body) -> tuple[Any, ...]:
    """The body at most `count` times while its condition holds: last states, then all other outputs stacked."""
    limit = None if count is None else int(number(count))
    goes = condition is None or bool(number(condition))
    current, gathered, step = list(states), [], 0
    while goes and (limit is None or step < limit):
        result, *new = _call(body, torch.tensor(step), torch.tensor(goes), *current)
        current = new[: len(current)]
        gathered.append(new[len(current) :])
        goes, step = bool(number(result)), step + 1
    return (*current, *_stacked(gathered, [0] * (_outputs(body) - 1 - len(current))))


def _outputs(body: Body) -> int:
    graph = body[0].graph
    return len(next(node for node in graph.nodes if node.op == "output").args[0])


def _stacked(gathered: list[list[Tensor]], axes: list[int]) -> list[Tensor]:
    if not gathered:  # no step: of the first dimension, which counts them, 0 is left
        return [torch.zeros(0) for _ in axes]
    return [
        torch.stack(together(*each), axis)
        for each, axis in zip(zip(*gathered, strict=True), axes, strict=True)
    ]


@op("Scan", several=True)
def scan(
    *inputs: Tensor,
    body: Body,
    num_scan_inputs: int,
    scan_input_axes: list[int] | None = None,
    scan_input_directions: list[int] | None = None,
    scan_output_axes: list[int] | None = None,
    scan_output_directions: list[int] | None = None,
) -> tuple[Tensor, ...]:
    """The body once for every slice of the last inputs."""
    states = list(inputs[: len(inputs) - num_scan_inputs])
    scanned = inputs[len(states) :]
    axes = scan_input_axes or [0] * num_scan_inputs
    backwards = scan_input_directions or [0] * num_scan_inputs
    steps = scanned[0].shape[axes[0]]
    gathered: list[list[Tensor]] = []
    for step in range(steps):
        parts = [
            x.select(axis, steps - 1 - step if back else step)
            for x, axis, back in zip(scanned, axes, backwards, strict=True)
        ]
        found = _call(body, *states, *parts)
        gathered.append(list(found[len(states) :]))
        states = list(found[: len(states)])
    count = _outputs(body) - len(states)
    stacked = _stacked(gathered, scan_output_axes or [0] * count)
    turned = scan_output_directions or [0] * count
    places = scan_output_axes or [0] * count
    return (*states, *(x.flip(a) if t else x for x, a, t in zip(stacked, places, turned, strict=True)))
