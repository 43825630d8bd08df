"""Witnesses: the attributes and shape inputs of a node that hold sizes of its axes.

A rule declares them next to the equalities; when axes shrink, the rewrite sets every witness from the
new sizes (or, for a default that hangs on a size, from the old one). A *place* is
an attribute's name or an input's position.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import onnx_graphsurgeon as gs

from pruneopt.analysis.axes import Axis

Place = str | int
Entry = int | tuple[Axis, ...]  # a literal, or the sum of these axes' sizes


class Style(Enum):
    """How sizes are written.

    EXACT: as they are. RESHAPE: 0 may stand for a size copied from the data and -1 for one other.
    EXPAND: 1 stands for a size that the data already has.
    """

    EXACT = "exact"
    RESHAPE = "reshape"
    EXPAND = "expand"


@dataclass(frozen=True, eq=False)
class Sizes:
    """`place` of `node` holds these entries.

    Attributes:
        node: the node.
        place: attribute name or input position.
        entries: one per element of the value.
        scalar: the value is a single integer.
        style: how the sizes are written.
        instead_of: an attribute that goes when this is written (Split's `num_outputs`).
        also: axes that make the value stale besides those of the entries (places counted from the end).
    """

    node: gs.Node
    place: Place
    entries: tuple[Entry, ...]
    scalar: bool = False
    style: Style = Style.EXACT
    instead_of: str = ""
    also: tuple[Axis, ...] = ()


@dataclass(frozen=True, eq=False)
class Indices:
    """`place` of `node` holds positions along `axis`."""

    node: gs.Node
    place: Place
    axis: Axis


@dataclass(frozen=True, eq=False)
class Fixed:
    """Attribute `place` of `node` keeps this value when any of `axes` shrinks.

    It writes down a default that depends on a size (attention's 1/sqrt of the head size).
    """

    node: gs.Node
    place: str
    value: float
    axes: tuple[Axis, ...]


@dataclass(frozen=True, eq=False)
class Scaled:
    """A number that holds for the full size of `axis`: times (new / old) ** power when it shrinks.

    `place` is an attribute, an input, or None for the node's first output. So a mean keeps the divisor it had,
    and what is removed counts as zero.
    """

    node: gs.Node
    place: Place | None
    axis: Axis
    power: float
    default: float = 0.0


Witness = Sizes | Indices | Fixed | Scaled


def axes_of(witness: Witness) -> list[Axis]:
    """All axes a witness speaks of."""
    if isinstance(witness, Indices | Scaled):
        return [witness.axis]
    if isinstance(witness, Fixed):
        return list(witness.axes)
    return [
        *witness.also,
        *(axis for entry in witness.entries if not isinstance(entry, int) for axis in entry),
    ]
