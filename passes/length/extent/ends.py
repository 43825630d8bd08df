"""Which dimensions of a model's inputs count places: rows and columns of an image, frames, tokens of a text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.analysis.axes import Axis, atoms
from pruneopt.analysis.infer import Analysis

ROLES = ("resolution", "frames", "sequence")


@dataclass(frozen=True, eq=False)
class End:
    """One dimension of an input, or of an output, that counts places.

    Attributes:
        tensor: the input.
        dim: which of its dimensions.
        role: `resolution` for the last two of two or three, `frames` for the first of three, `sequence` for one.
        axis: its axis.
    """

    tensor: gs.Variable
    dim: int
    role: str
    axis: Axis


def held(analysis: Analysis) -> dict[Axis, str]:
    """Atoms that weights are made for, each with the name of such a weight: they keep their size."""
    found: dict[Axis, str] = {}
    for use in analysis.uses:
        if use.weight and np.dtype(use.constant.dtype).kind not in "biu":
            for axis in use.axes:
                found |= {a: use.constant.name for a in atoms(axis) if a not in found and set(a.size) != {1}}
    return found


def find_ends(analysis: Analysis) -> list[End]:
    """The dimensions of all inputs that count places, by role; the first of an input is its batch."""
    fixed = held(analysis)
    return [end for tensor in analysis.model.graph.inputs for end in _of(tensor, analysis, fixed)]


def _of(tensor: gs.Variable, analysis: Analysis, fixed: dict[Axis, str]) -> Iterator[End]:
    axes = analysis.axes.get(tensor.name, [])
    free = [dim for dim, axis in enumerate(axes) if dim and any(_is_free(a, fixed) for a in atoms(axis))]
    roles = {1: ROLES[2:], 2: (ROLES[0],) * 2, 3: (ROLES[1], ROLES[0], ROLES[0])}.get(len(free), ())
    for dim, role in zip(free, roles, strict=False):
        yield End(tensor, dim, role, axes[dim])


def _is_free(atom: Axis, fixed: dict[Axis, str]) -> bool:
    return atom not in fixed and max(atom.size) > 1
