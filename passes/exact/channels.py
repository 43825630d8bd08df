"""Entries of width that add nothing: removed without changing an output.

Unread: every weight that sums over the entry is zero there.
Silent: every weight and bias that makes the entry is zero there, and the ops on the way keep a zero. So are
filters that a training framework has masked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from pruneopt.analysis.axes import Axis, atoms
from pruneopt.analysis.groups import Group, Touch, find_groups
from pruneopt.analysis.infer import Analysis
from pruneopt.analysis.masks import Mask, pull_back
from pruneopt.analysis.op import Use
from pruneopt.arrays import Array
from pruneopt.model import values

KEEP_ZERO = set(
    "Abs Add AveragePool Cast Concat Conv ConvTranspose Elu Erf Expand Flatten Gelu Gemm GlobalAveragePool "
    "HardSwish Identity LeakyRelu MatMul MaxPool Mul Neg PRelu Relu Reshape Resize Slice Split Sqrt Squeeze "
    "Sub Tanh Tile Transpose Unsqueeze".split()
)
SUMS = {"Add": (0, 1), "Sub": (0, 1), "Gemm": (2,)}  # terms that must be zero at the entry, each of them


def idle_entries(analysis: Analysis) -> dict[Axis, Mask]:
    """Keep-masks of the atoms that have entries without any effect; at least one entry of each stays."""
    found = {}
    readers = _readers(analysis)
    loud = _loud(analysis)
    for group in find_groups(analysis):
        if group.coupled:
            continue
        idle = _unread(group, readers.get(group.atom, []))
        if group.atom not in loud:
            idle |= _silent(group, readers.get(group.atom, []))
        if idle.any():
            idle[:1] &= not idle.all()
            found[group.atom] = ~idle
    return found


@dataclass(frozen=True)
class _Reader:
    """One contraction over an atom: its constant operand, None where both are computed."""

    uses: tuple[Use, ...]
    weight: Use | None


def _readers(analysis: Analysis) -> dict[Axis, list[_Reader]]:
    """The contractions over each atom."""
    grouped: dict[tuple[int, str], list[Use]] = {}
    for use in analysis.contractions:
        grouped.setdefault((id(use.node), use.label), []).append(use)
    found: dict[Axis, list[_Reader]] = {}
    for uses in grouped.values():
        weights = [u for u in uses if isinstance(u.node.inputs[u.slot], gs.Constant)]
        reader = _Reader(tuple(uses), weights[0] if weights else None)
        for atom in {a for u in uses for a in atoms(u.axis)}:
            found.setdefault(atom, []).append(reader)
    return found


def _loud(analysis: Analysis) -> set[Axis]:
    """Atoms along which some op may make something of zeros."""
    constants = {(id(u.node), u.slot): u.axes for u in analysis.uses}
    found: set[Axis] = set()
    for node in analysis.model.graph.nodes:
        made = {a for t in node.outputs for axis in analysis.axes.get(t.name, []) for a in atoms(axis)}
        if node.op not in KEEP_ZERO:
            found |= made
        for slot in SUMS.get(node.op, ()):
            if slot < len(node.inputs) and node.inputs[slot].name:
                axes = constants.get((id(node), slot)) or analysis.axes.get(node.inputs[slot].name, [])
                found |= made - {a for axis in axes for a in atoms(axis)}  # the term is the same everywhere
    return found


def _unread(group: Group, readers: Sequence[_Reader]) -> npt.NDArray[np.bool_]:
    """Entries that every reader weighs with zero; none where a reader has no constant weights."""
    if not readers or any(r.weight is None for r in readers):
        return np.zeros(group.size, bool)
    weights = [r.weight for r in readers if r.weight is not None]
    read = [_magnitude(values(u.node.inputs[u.slot]), u.dim, u.axis, group.atom) for u in weights]
    return np.asarray(sum(read) == 0)


def _silent(group: Group, readers: Sequence[_Reader]) -> npt.NDArray[np.bool_]:
    """Entries at which all that makes them is zero; factors (Mul, PRelu slopes) may be anything."""
    makers = [t for t in _makers(group, readers) if t.use.node.op not in ("Mul", "PRelu")]
    if not any(t.use.weight for t in makers):
        return np.zeros(group.size, bool)
    made = [_magnitude(values(t.use.constant), t.dim, t.axis, group.atom) for t in makers]
    return np.asarray(sum(made) == 0)


def _makers(group: Group, readers: Sequence[_Reader]) -> Iterator[Touch]:
    """Constants along the atom that no contraction sums over it."""
    summed = {(id(u.node), u.slot, u.dim) for r in readers for u in r.uses}
    yield from (t for t in group.touches if (id(t.use.node), t.use.slot, t.dim) not in summed)


def _magnitude(weight: Array, dim: int, axis: Axis, atom: Axis) -> npt.NDArray[np.float64]:
    others = tuple(d for d in range(weight.ndim) if d != dim)
    return pull_back(axis, atom, np.abs(weight).sum(axis=others, dtype=np.float64))
