"""The graph with gaps where tokens will go: the analysis sees their number behind a gap as another axis."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_graphsurgeon as gs

from pruneopt.analysis.cuts import Site
from pruneopt.analysis.infer import analyse
from pruneopt.analysis.observe import Observation
from pruneopt.analysis.tokens import Tokens
from pruneopt.model import Model
from pruneopt.passes.length.gaps import Gap, Group, Marked
from pruneopt.passes.length.walking import Walk
from pruneopt.passes.rewriting.names import Names
from pruneopt.passes.rewriting.shrink import twins


def mark(
    tokens: Tokens,
    chosen: Sequence[Sequence[Site]],
    keep: tuple[str, ...],
    homes: Sequence[Site | None] = (),
) -> Marked:
    """Put gaps behind the chosen sites, one list per token axis, and analyse what comes of it.

    `homes` are the sites, one for each list, behind which all tokens come back as they were.
    """
    model = tokens.analysis.model.copy()
    marking = Marking(tokens, model)
    back = homes or [None] * len(chosen)
    groups = [marking.group(list(sites), home) for sites, home in zip(chosen, back, strict=True) if sites]
    seen = marking.seen()
    for node in marking.reads:
        model.graph.nodes.remove(node)
    return Marked(analyse(model, seen, keep), groups, marking.reads, marking.twin)


class Marking:
    """A copy of a graph into which gaps are put."""

    def __init__(self, tokens: Tokens, model: Model) -> None:
        self.tokens = tokens
        self.model = model
        self.twin = twins(tokens.analysis.model, model)
        self.names = Names(model.graph)
        self.holes: dict[str, str] = {}
        self.reads: list[gs.Node] = []

    def seen(self) -> Observation:
        """What was observed, the gaps included: they look like what they are made of."""
        old = self.tokens.analysis.seen
        shapes = dict(old.shapes)
        for hole, source in self.holes.items():
            shapes[hole] = shapes.get(source, ())
        return Observation(old.runs, shapes, old.values, old.static, old.feeds)

    def group(self, sites: list[Site], home: Site | None = None) -> Group:
        """Gaps for one token axis."""
        group = Group(sites, sites[0].attention.tokens, home)
        walk = Walk(self, group)
        for node in self.tokens.nodes:
            if id(node) in sites[0].behind:
                walk.visit(node)
        walk.ends()
        group.apart = [s for level, s in enumerate(sites) if level and walk.short.get(s.tensor) != level]
        group.reads = group.front
        if group.of("back"):  # who reads all tokens may read the first for all of them
            group.front = max(group.front, 1)
        return group

    def gap(
        self, group: Group, kind: str, source: gs.Tensor, level: int, dims: tuple[int, ...]
    ) -> gs.Variable:
        """The hole for a source; made once."""
        for gap in group.gaps:
            if (gap.kind, gap.level) == (kind, level) and gap.source is source:
                return gap.hole
        hole = gs.Variable(self.names.new(f"{source.name}_{kind}"), source.dtype)
        known = self.tokens.analysis.seen.shapes
        self.holes[hole.name] = self.holes.get(source.name, source.name)
        if isinstance(source, gs.Constant) and source.name not in known:
            known[source.name] = tuple((int(n),) * self.tokens.analysis.seen.runs for n in source.shape)
        group.gaps.append(Gap(kind, source, hole, level, dims, self.holes[hole.name]))
        return hole
