"""Groups: one prunable atom each, with every constant dimension that shrinks with it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import gcd, prod

from pruneopt.analysis.axes import Axis, Kind, atoms, factors, find, parts
from pruneopt.analysis.cost import is_weight
from pruneopt.analysis.infer import Analysis, ConstantUse


@dataclass(frozen=True, eq=False)
class Touch:
    """Dimension `dim` of a constant's use contains the group's atom."""

    use: ConstantUse
    dim: int

    @property
    def axis(self) -> Axis:
        """The axis of that dimension."""
        return self.use.axes[self.dim]

    def __str__(self) -> str:
        return f"{self.use.constant.name}:{self.dim}"


@dataclass(frozen=True, eq=False)
class Group:
    """Entries that live and die together.

    Attributes:
        name: the first weight dimension that it touches, `tensor:dim`.
        atom: its axis in the algebra.
        touches: every constant dimension that contains the atom.
        granule: entries of a weight dimension that go with one entry of the atom (64 for a head of 64).
        cofactors: atoms that share a product with this one, as heads and head widths do.
        least: number of entries that must stay: as many as are chosen from them.
    """

    name: str
    atom: Axis
    touches: tuple[Touch, ...]
    granule: int
    cofactors: frozenset[Axis]
    least: int = 1

    @property
    def size(self) -> int:
        """Number of entries."""
        return self.atom.size[0]

    @property
    def coupled(self) -> str:
        """Why removal is only approximate, or nothing."""
        return str(self.atom.coupled or "")

    @property
    def params(self) -> int:
        """Parameters in the weights it touches, each counted once."""
        sizes = {id(t.use.constant): prod(t.use.constant.shape) for t in self.touches if is_weight(t.use)}
        return sum(sizes.values())


def find_groups(analysis: Analysis) -> list[Group]:
    """All groups that touch a weight, are not frozen and have entries to spare, in graph order."""
    touches: dict[Axis, list[Touch]] = {}
    least = least_of(analysis)
    for use in analysis.uses:
        for dim, axis in enumerate(use.axes):
            for atom in dict.fromkeys(atoms(axis)):
                if atom.static and atom.size[0] > least.get(atom, 1) and not atom.frozen:
                    touches.setdefault(atom, []).append(Touch(use, dim))
    return [
        _group(atom, found, least.get(atom, 1))
        for atom, found in touches.items()
        if any(t.use.weight and is_weight(t.use) for t in found)
    ]


def least_of(analysis: Analysis) -> dict[Axis, int]:
    """How many entries of an atom must stay, where that is more than one."""
    found: dict[Axis, int] = {}
    for axis, count in analysis.chosen:
        atom = find(axis)
        found[atom] = max(found.get(atom, 1), count)
    return found


def _group(atom: Axis, touches: list[Touch], least: int) -> Group:
    weights = [t for t in touches if t.use.weight]
    name = str(max(weights, key=lambda t: atom.size[0] / t.axis.size[0]))
    granule = min(granule_of(t.axis, atom) for t in weights)
    cofactors = {other for t in weights for other in _cofactors(t.axis, atom)}
    return Group(name, atom, tuple(touches), granule, frozenset(cofactors), least)


def granule_of(axis: Axis, atom: Axis) -> int:
    """Entries of `axis` in one contiguous step of `atom`: the sizes of the factors minor to it."""
    axis = find(axis)
    if axis is atom:
        return 1
    if axis.kind is Kind.CONCAT:
        inside = [p for p in parts(axis) if atom in atoms(p)]
        whole = all(find(p) is find(inside[0]) for p in parts(axis))  # rotary halves: p | p
        return granule_of(inside[0], atom) * (len(inside) if whole else 1)
    own = factors(axis)
    at = max(i for i, f in enumerate(own) if atom in atoms(f))
    return granule_of(own[at], atom) * prod(f.size[0] for f in own[at + 1 :])


def _cofactors(axis: Axis, atom: Axis) -> Iterable[Axis]:
    axis = find(axis)
    if axis.kind is Kind.CONCAT:
        for part in parts(axis):
            yield from _cofactors(part, atom)
    elif axis.kind is Kind.PRODUCT and atom in atoms(axis):
        yield from (a for a in atoms(axis) if a is not atom)


def alignment(group: Group, align: int) -> int:
    """The step in which a group's size may change so that weight widths stay multiples of `align`.

    Small groups take a finer step (at least four steps per group): a width of 16 moves by 4.
    """
    step = align // gcd(align, group.granule)
    while step > 1 and step * 4 > group.size:
        step //= 2
    return step
