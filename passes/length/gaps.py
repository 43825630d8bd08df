"""Gaps where tokens will go, and the groups of sites that they belong to.

A gap is a tensor that nothing makes. What is behind a site reads the gap `short` instead of the cut; a
companion is read through a gap `along`; where all tokens are needed again (outputs, poolings, a layout in
space) they are read through a gap `back`. Places read from the front (a class token) are no use of the axis.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_graphsurgeon as gs

from pruneopt.analysis.axes import Axis, find
from pruneopt.analysis.cuts import Site
from pruneopt.analysis.infer import Analysis
from pruneopt.model import Model


@dataclass(eq=False)
class Gap:
    """A tensor to be filled in.

    Attributes:
        kind: `short`, `along` or `back`.
        source: the tensor it is made of.
        hole: the tensor that is read, which nothing makes yet.
        level: number of the site, counted from 1; the last one in front of a gap `back`.
        dims: the token dimensions.
        origin: name of the tensor of the original graph that it stands for.
        rank: with `along`, the dimensions of what reads it; the first is the batch there.
    """

    kind: str
    source: gs.Tensor
    hole: gs.Variable
    level: int
    dims: tuple[int, ...]
    origin: str = ""
    rank: int = 0


@dataclass(eq=False)
class Group:
    """Sites of one token axis, in order.

    Attributes:
        sites: where tokens become fewer.
        tokens: their axis.
        home: behind it all tokens are there again, those that were dropped as they were; None where they never are.
        gaps: to be filled in.
        reads: places at the front that are read one by one.
        front: places at the front that stay.
        apart: sites before which all tokens are there again.
    """

    sites: list[Site]
    tokens: Axis
    home: Site | None = None
    gaps: list[Gap] = field(default_factory=list)
    reads: int = 0
    front: int = 0
    apart: list[Site] = field(default_factory=list)

    def shorts(self) -> list[Gap]:
        """The gaps of the sites, in order."""
        return sorted((g for g in self.gaps if g.kind == "short"), key=lambda g: g.level)

    def of(self, kind: str, level: int | None = None) -> list[Gap]:
        """Gaps of one kind (and level)."""
        return [g for g in self.gaps if g.kind == kind and level in (None, g.level)]

    def level(self, node: gs.Node) -> int:
        """Number of sites in front of a node of the graph before marking."""
        return sum(id(node) in site.behind for site in self.sites)


@dataclass
class Marked:
    """The graph with gaps, its analysis, and the nodes that were taken out of it."""

    analysis: Analysis
    groups: list[Group]
    reads: list[gs.Node]
    nodes: dict[int, gs.Node]

    @property
    def model(self) -> Model:
        """The graph with gaps."""
        return self.analysis.model

    def axis(self, gap: Gap) -> Axis | None:
        """The token axis behind a gap; None where nothing reads it."""
        axes = self.analysis.axes.get(gap.hole.name)
        return None if axes is None else find(axes[gap.dims[0]])
