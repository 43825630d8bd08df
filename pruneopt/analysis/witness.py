"""Witnesses: the attributes and shape inputs of a node that hold sizes of its axes.

A rule declares them next to the equalities; when axes shrink, the rewrite sets every witness from the
new sizes. A *place* is an attribute's name or an input's position.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_graphsurgeon as gs

from pruneopt.analysis.axes import Axis

Place = str | int
Entry = int | tuple[Axis, ...]  # a literal, or the sum of these axes' sizes


@dataclass(frozen=True, eq=False)
class Sizes:
    """`place` of `node` holds these entries.

    Attributes:
        node: the node.
        place: attribute name or input position.
        entries: one per element of the value.
        scalar: the value is a single integer.
        inferred: -1 may stand for one entry and 0 for an entry equal to the data's own dimension (Reshape).
        instead_of: an attribute that goes when this is written (Split's `num_outputs`).
    """

    node: gs.Node
    place: Place
    entries: tuple[Entry, ...]
    scalar: bool = False
    inferred: bool = False
    instead_of: str = ""


@dataclass(frozen=True, eq=False)
class Indices:
    """`place` of `node` holds positions along `axis`."""

    node: gs.Node
    place: Place
    axis: Axis


Witness = Sizes | Indices


def axes_of(witness: Witness) -> list[Axis]:
    """All axes a witness speaks of."""
    if isinstance(witness, Indices):
        return [witness.axis]
    return [axis for entry in witness.entries if not isinstance(entry, int) for axis in entry]
