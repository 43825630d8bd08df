"""What a graph costs, as functions of its atoms' sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from pruneopt.analysis.axes import Axis, Kind, atoms, find
from pruneopt.analysis.infer import Analysis, ConstantUse
from pruneopt.model import Model, constants

Kept = Mapping[Axis, int]
NOT_WEIGHTS = {"int64", "int32", "bool", "object", "uint64", "uint32"}  # indices, shapes, masks, text


@dataclass(frozen=True)
class Cost:
    """Costs of one graph.

    Attributes:
        macs: multiply-accumulates of matrix products, convolutions and recurrent layers at the observed input size.
        params: elements of floating-point or quantised constants.
        bytes: bytes of all constants.
    """

    macs: int
    params: int
    bytes: int


class CostModel:
    """Costs of an analysed graph for any sizes of its atoms, at observation `run`."""

    def __init__(self, analysis: Analysis, run: int = 0) -> None:
        self.run = run
        self.macs_terms = [axes for _, axes in analysis.macs]
        stored = _distinct(analysis.uses)
        self.params_terms = [tuple(use.axes) for use in stored if is_weight(use)]
        self.bytes_terms = [(tuple(use.axes), _itemsize(use)) for use in stored]

    def macs(self, kept: Kept) -> int:
        """Multiply-accumulates when each atom has `kept` entries left."""
        size = _Sizes(kept, self.run)
        return sum(prod(map(size, axes)) for axes in self.macs_terms)

    def params(self, kept: Kept) -> int:
        """Elements of weights."""
        size = _Sizes(kept, self.run)
        return sum(prod(map(size, axes)) for axes in self.params_terms)

    def bytes(self, kept: Kept) -> int:
        """Bytes of all constants."""
        size = _Sizes(kept, self.run)
        return int(sum(prod(map(size, axes)) * each for axes, each in self.bytes_terms))

    def all(self, kept: Kept) -> Cost:
        """All costs at once."""
        return Cost(self.macs(kept), self.params(kept), self.bytes(kept))


class _Sizes:
    """`masks.size_of` that remembers, for one assignment of sizes."""

    def __init__(self, kept: Kept, run: int) -> None:
        self.kept = kept
        self.run = run
        self.known: dict[int, int] = {}

    def __call__(self, axis: Axis) -> int:
        axis = find(axis)
        known = self.known.get(id(axis))
        if known is None:
            known = self.known[id(axis)] = self._size(axis)
        return known

    def _size(self, axis: Axis) -> int:
        if axis.kind is Kind.ATOM:
            return self.kept.get(axis, axis.size[self.run])
        if axis.kind is Kind.CONCAT:
            return sum(map(self, axis.items))
        return prod(map(self, axis.items))


def is_weight(use: ConstantUse) -> bool:
    """Whether a constant counts as parameters: floating point or quantised, not an index, shape or mask."""
    return str(use.constant.dtype) not in NOT_WEIGHTS


def stored_cost(model: Model) -> tuple[int, int]:
    """(parameters, bytes) of a model as it is stored, each constant once, those in bodies included."""
    stored = constants(model.graph)
    weights = (c for c in stored if str(c.dtype) not in NOT_WEIGHTS)
    return sum(prod(c.shape) for c in weights), sum(int(c._values.nbytes) for c in stored)


def _itemsize(use: ConstantUse) -> float:
    elements = prod(use.constant.shape)
    return use.constant._values.nbytes / elements if elements else 0.0


def _distinct(uses: list[ConstantUse]) -> list[ConstantUse]:
    """One use per stored array: uses of one constant whose axes are the same share it."""
    found: dict[tuple[object, ...], ConstantUse] = {}
    for use in uses:
        key = (id(use.constant), *(tuple(map(id, atoms(a))) for a in use.axes))
        found.setdefault(key, use)
    return list(found.values())
