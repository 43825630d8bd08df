"""The axes of the algebra: every dimension of every tensor is an atom, a product or a concatenation.

    axis ::= atom | (axis axis ...) | axis | axis | ...

A product is row-major, as in a Reshape (`768 = (12 64)`); a concatenation is what Concat builds and
Split takes apart (`2304 = q | k | v`). What op rules say to be equal, `unify` makes one.

Sizes are tuples with one entry per observation of the model, so that `(2, 3)` is a dynamic batch and
`(64, 64)` a static width, and all arithmetic on sizes is element by element.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from math import prod

Size = tuple[int, ...]


class Kind(Enum):
    """What an axis is made of."""

    ATOM = "atom"
    PRODUCT = "product"
    CONCAT = "concat"


@dataclass(frozen=True)
class Reason:
    """Why an atom may not (or not exactly) shrink: a sentence, and the node that says so."""

    text: str
    node: str = ""

    def __str__(self) -> str:
        return f"{self.text} ({self.node})" if self.node else self.text


class Axis:
    """One axis: union-find node, structure and flags. Compare by identity of `find(axis)`."""

    __slots__ = ("_link", "coupled", "frozen", "items", "kind", "size")

    def __init__(self, size: Size, kind: Kind = Kind.ATOM, items: tuple[Axis, ...] = ()) -> None:
        self.size = size
        self.kind = kind
        self.items = items
        self.frozen: Reason | None = None
        self.coupled: Reason | None = None
        self._link: Axis | None = None

    @property
    def static(self) -> bool:
        """Whether the axis has one size at all observations."""
        return len(set(self.size)) == 1

    def __repr__(self) -> str:
        return show(self)


def find(axis: Axis) -> Axis:
    """The representative of an axis: itself, or what it was bound to."""
    while axis._link is not None:
        if axis._link._link is not None:
            axis._link = axis._link._link
        axis = axis._link
    return axis


def product(axes: Sequence[Axis], runs: int) -> Axis:
    """The row-major product of `axes`; the empty product is the unit axis of size 1."""
    items = tuple(f for a in axes for f in factors(a) if set(f.size) != {1})
    if len(items) == 1:
        return items[0]
    return Axis(times(items, runs), Kind.PRODUCT, items)


def concat(axes: Sequence[Axis]) -> Axis:
    """The concatenation of `axes`, which are at least one."""
    items = tuple(p for a in axes for p in parts(a) if any(p.size)) or tuple(axes[:1])
    if len(items) == 1:
        return items[0]
    return Axis(tuple(map(sum, zip(*(a.size for a in items), strict=True))), Kind.CONCAT, items)


def times(axes: Sequence[Axis], runs: int) -> Size:
    """The product of the axes' sizes, at each observation."""
    return tuple(prod(a.size[run] for a in axes) for run in range(runs))


def volume(axes: Sequence[Axis]) -> int:
    """The product of the axes' sizes at the last observation, the larger one."""
    return prod(a.size[-1] for a in axes)


def factors(axis: Axis) -> list[Axis]:
    """The factors of a product, flattened and without units; `[axis]` for anything else."""
    axis = find(axis)
    if axis.kind is Kind.PRODUCT:
        return [f for item in axis.items for f in factors(item)]
    return [axis]


def parts(axis: Axis) -> list[Axis]:
    """The parts of a concatenation, flattened; `[axis]` for anything else."""
    axis = find(axis)
    if axis.kind is Kind.CONCAT:
        return [p for item in axis.items for p in parts(item)]
    return [axis]


def atoms(axis: Axis) -> list[Axis]:
    """All atoms of an axis from left to right, with repeats."""
    axis = find(axis)
    if axis.kind is Kind.ATOM:
        return [axis]
    return [a for item in axis.items for a in atoms(item)]


def freeze(axis: Axis, reason: Reason) -> None:
    """Forbid any change of `axis`; the first reason given to an atom stays."""
    for atom in atoms(axis):
        atom.frozen = atom.frozen or reason


def couple(axis: Axis, reason: Reason) -> None:
    """Mark that a statistic runs over `axis`: removing entries changes it."""
    for atom in atoms(axis):
        atom.coupled = atom.coupled or reason


def is_frozen(axis: Axis) -> bool:
    """Whether no entry of `axis` can be removed."""
    return all(a.frozen or not a.static for a in atoms(axis))


def is_free(axis: Axis) -> bool:
    """Whether it is an atom with entries that can be removed."""
    axis = find(axis)
    return axis.kind is Kind.ATOM and axis.static and not axis.frozen and axis.size[0] > 1


def size_text(size: Size) -> str:
    """A size as text: `64`, or `2/3` for a dynamic one."""
    return str(size[0]) if len(set(size)) == 1 else "/".join(map(str, size))


def show(axis: Axis) -> str:
    """An axis as text: `768`, `(12 64)`, `768 | 768`."""
    axis = find(axis)
    if axis.kind is Kind.ATOM:
        return size_text(axis.size)
    if axis.kind is Kind.CONCAT:
        return " | ".join(show(p) for p in parts(axis))
    inner = (f"({show(f)})" if find(f).kind is Kind.CONCAT else show(f) for f in factors(axis))
    return f"({' '.join(inner)})" if axis.items else "1"
