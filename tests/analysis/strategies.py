"""Hypothesis strategies for axes and masks, and a reader for axes written as text."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from pruneopt.analysis.axes import Axis, Size, atoms, concat, product
from pruneopt.analysis.masks import Mask


@dataclass(frozen=True)
class Recipe:
    """How to build an axis, as often as wanted: an atom, a product or a concatenation."""

    kind: str
    size: Size
    items: tuple[Recipe, ...] = ()
    name: int = 0

    def build(self, known: dict[tuple[int, Size], Axis] | None) -> Axis:
        """The axis; atoms of one name and size in `known` are one atom, without it all are distinct."""
        if self.kind == "atom":
            return (
                Axis(self.size)
                if known is None
                else known.setdefault((self.name, self.size), Axis(self.size))
            )
        items = [item.build(known) for item in self.items]
        return product(items, len(self.size)) if self.kind == "product" else concat(items)


def read(text: str, **named: Axis) -> Axis:
    """An axis from text: `12`, `(12 64)`, `768 | 768`, `a | (b 4)`, `2/3` for a dynamic size."""
    pieces = re.findall(r"[()|]|[\w/]+", text)
    runs = max((p.count("/") + 1 for p in pieces), default=1)

    def sequence(stop: str) -> list[Axis]:
        found: list[list[Axis]] = [[]]
        while pieces and pieces[0] != stop:
            token = pieces.pop(0)
            if token == "(":
                found[-1].append(sequence(")").pop())
                pieces.pop(0)
            elif token == "|":
                found.append([])
            else:
                found[-1].append(leaf(token))
        return [concat([product(row, runs) for row in found])]

    def leaf(token: str) -> Axis:
        if not token[0].isdigit():
            return named[token]
        size = tuple(int(n) for n in token.split("/"))
        return Axis(size if len(size) > 1 else size * runs)

    return sequence("").pop()


@st.composite
def recipes(draw: st.DrawFn, size: Size, depth: int = 3, allowed: str = "product concat") -> Recipe:
    """Any axis of this size, made of the allowed kinds; some atoms occur twice."""
    kinds = ["atom"]
    divisors = [d for d in range(2, min(size)) if all(n % d == 0 for n in size)]
    if depth and divisors and "product" in allowed:
        kinds.append("product")
    if depth and min(size) > 1 and "concat" in allowed:
        kinds.append("concat")
    kind = draw(st.sampled_from(kinds))
    if kind == "product":
        minor = draw(st.sampled_from(divisors))
        halves = (tuple(n // minor for n in size), (minor,) * len(size))
    elif kind == "concat":
        head = draw(st.integers(1, min(size) - 1))
        halves = ((head,) * len(size), tuple(n - head for n in size))
    else:
        return Recipe("atom", size, name=draw(st.integers(0, 1)))
    return Recipe(kind, size, tuple(draw(recipes(half, depth - 1, allowed)) for half in halves))


SIZES = st.sampled_from([(n,) for n in (1, 2, 6, 7, 8, 12, 24, 30)] + [(6, 9), (8, 12), (24, 24)])


@st.composite
def pairs(draw: st.DrawFn, allowed: str = "product concat") -> tuple[Recipe, Recipe]:
    """Two axes of one size."""
    size = draw(SIZES)
    return draw(recipes(size, allowed=allowed)), draw(recipes(size, allowed=allowed))


def masks_of(axes: list[Axis], seed: int) -> dict[Axis, Mask]:
    """A random mask for every static atom of these axes; none is emptied."""
    rng = np.random.default_rng(seed)
    masks: dict[Axis, Mask] = {}
    for axis in axes:
        for atom in atoms(axis):
            if atom.static and atom not in masks:
                masks[atom] = rng.random(atom.size[0]) < 0.6
                masks[atom][rng.integers(atom.size[0])] = True
    return masks
