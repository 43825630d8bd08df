"""Keep-masks: one boolean vector per atom, and what follows from it for any axis.

A product's mask is the Kronecker product of its factors' masks, a concatenation's mask the
concatenation of its parts'. That is all the slicing there is: no rule ever slices.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

import numpy as np
import numpy.typing as npt

from pruneopt.analysis.axes import Axis, Kind, atoms, factors, find, parts

Mask = npt.NDArray[np.bool_]
Masks = Mapping[Axis, Mask]


def touched(axis: Axis, masks: Masks) -> bool:
    """Whether any atom of `axis` loses entries."""
    return any(atom in masks for atom in atoms(axis))


def mask_of(axis: Axis, masks: Masks, run: int = 0) -> Mask:
    """The keep-mask of `axis`, shape [size at observation `run`]; atoms not in `masks` keep everything."""
    axis = find(axis)
    if axis.kind is Kind.ATOM:
        found = masks.get(axis)
        return np.ones(axis.size[run], bool) if found is None else found
    if axis.kind is Kind.CONCAT:
        return np.concatenate([mask_of(p, masks, run) for p in parts(axis)])
    whole: Mask = reduce(np.kron, [mask_of(f, masks, run) for f in factors(axis)], np.ones(1, bool))
    return whole


def size_of(axis: Axis, kept: Mapping[Axis, int], run: int = 0) -> int:
    """The size of `axis` at observation `run` when each atom in `kept` has that many entries left."""
    axis = find(axis)
    if axis.kind is Kind.ATOM:
        return kept.get(axis, axis.size[run])
    if axis.kind is Kind.CONCAT:
        return sum(size_of(p, kept, run) for p in axis.items)
    return int(np.prod([size_of(f, kept, run) for f in axis.items], dtype=np.int64))


def pull_back(axis: Axis, atom: Axis, entries: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Sum a vector over `axis`, shape [axis size], onto one of its atoms, shape [atom size].

    The transpose of `mask_of`: entry i of the result collects every axis entry that goes when i goes.
    """
    axis = find(axis)
    if axis is atom:
        return entries
    if axis.kind is Kind.ATOM:
        return np.zeros(atom.size[0])
    if axis.kind is Kind.CONCAT:
        cuts = np.cumsum([p.size[0] for p in parts(axis)])[:-1]
        pieces = zip(parts(axis), np.split(entries, cuts), strict=True)
        return sum((pull_back(p, atom, e) for p, e in pieces), np.zeros(atom.size[0]))
    own = factors(axis)
    block = entries.reshape([f.size[0] for f in own])
    total = np.zeros(atom.size[0])
    for i, factor in enumerate(own):
        if any(a is atom for a in atoms(factor)):
            others = tuple(j for j in range(len(own)) if j != i)
            total += pull_back(factor, atom, block.sum(axis=others))
    return total
