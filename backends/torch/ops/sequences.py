"""Sequences of tensors, which are Python lists, and optionals, which may be None."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pruneopt.backends.torch.table import op
from pruneopt.backends.torch.values import Setting, ints, number, together


@op("SequenceConstruct")
def construct(*tensors: Tensor) -> list[Tensor]:
    """These tensors."""
    return list(tensors)


@op("SequenceEmpty")
def empty(*, dtype: int = 1) -> list[Tensor]:
    """No tensors."""
    return []


@op("SequenceInsert", settings=(2,))
def insert(sequence: list[Tensor], tensor: Tensor, position: Setting = None) -> list[Tensor]:
    """With a tensor more, at the end by default."""
    place = len(sequence) if position is None else int(number(position))
    place = place + len(sequence) if place < 0 else place
    return [*sequence[:place], tensor, *sequence[place:]]


@op("SequenceErase", settings=(1,))
def erase(sequence: list[Tensor], position: Setting = None) -> list[Tensor]:
    """Without one tensor, the last by default."""
    place = (-1 if position is None else int(number(position))) % len(sequence)
    return [*sequence[:place], *sequence[place + 1 :]]


@op("SequenceAt", settings=(1,))
def at(sequence: list[Tensor], position: Setting) -> Tensor:
    """One of the tensors."""
    return sequence[int(number(position))]


@op("SequenceLength")
def length(sequence: list[Tensor]) -> Tensor:
    """Their number, on the CPU."""
    return torch.tensor(len(sequence), dtype=torch.int64)


@op("ConcatFromSequence")
def concat_from(sequence: list[Tensor], *, axis: int, new_axis: int = 0) -> Tensor:
    """One tensor of all, along an old axis or a new one."""
    tensors = together(*sequence)
    return torch.stack(tensors, axis) if new_axis else torch.cat(tensors, axis)


@op("SplitToSequence", settings=(1,))
def split_to(x: Tensor, split: Setting = None, *, axis: int = 0, keepdims: int = 1) -> list[Tensor]:
    """Pieces along an axis: one entry each, equal sizes with a smaller last, or given sizes."""
    if split is None:
        return list(torch.split(x, 1, axis) if keepdims else torch.unbind(x, axis))
    scalar = split.dim() == 0 if isinstance(split, Tensor) else not isinstance(split, list)
    return list(torch.split(x, ints(split)[0] if scalar else ints(split), axis))


@op("Optional")
def optional(value: Any = None, **attributes: Any) -> Any:
    """The value, or nothing."""
    return value


@op("OptionalHasElement")
def has_element(value: Any = None) -> Tensor:
    """Whether there is a value, on the CPU."""
    return torch.tensor(value is not None)


@op("OptionalGetElement")
def get_element(value: Any) -> Any:
    """The value."""
    return value
