"""The graph with gaps where tokens will go: the analysis sees their number behind a gap as another axis.

A gap is a tensor that nothing makes. What is behind a site reads the gap `short` instead of the cut; a
companion is read through a gap `along`; where all tokens are needed again (outputs, poolings, a layout in
space) they are read through a gap `back`. Places read from the front (a class token) are no use of the axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import onnx_graphsurgeon as gs

from pruneopt.analysis.axes import Axis, atoms, find
from pruneopt.analysis.infer import Analysis, analyse
from pruneopt.analysis.observe import Observation
from pruneopt.analysis.tokens import Site, Tokens, meets, same
from pruneopt.model import Model, values
from pruneopt.passes.rewriting.names import Names
from pruneopt.passes.rewriting.shrink import twins

MOST_FRONT = 16  # places at the front that may be read one by one


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
    """Sites of one token axis, in order; `front` places stay; all tokens are there again before those `apart`."""

    sites: list[Site]
    tokens: Axis
    gaps: list[Gap] = field(default_factory=list)
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


def mark(tokens: Tokens, chosen: Sequence[Sequence[Site]], keep: tuple[str, ...]) -> Marked:
    """Put gaps behind the chosen sites, one list per token axis, and analyse what comes of it."""
    model = tokens.analysis.model.copy()
    marking = _Marking(tokens, model)
    groups = [marking.group(list(sites)) for sites in chosen if sites]
    seen = marking.seen()
    for node in marking.reads:
        model.graph.nodes.remove(node)
    return Marked(analyse(model, seen, keep), groups, marking.reads, marking.twin)


class _Marking:
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

    def group(self, sites: list[Site]) -> Group:
        """Gaps for one token axis."""
        group = Group(sites, sites[0].attention.tokens)
        walk = _Walk(self, group)
        for node in self.tokens.nodes:
            if id(node) in sites[0].behind:
                walk.visit(node)
        walk.ends()
        group.apart = [s for level, s in enumerate(sites) if level and walk.short.get(s.tensor) != level]
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


class _Walk:
    """Visits the nodes behind the first site in order, and knows which tensors are short."""

    def __init__(self, marking: _Marking, group: Group) -> None:
        self.marking = marking
        self.group = group
        self.tokens = marking.tokens
        self.cuts = {site.tensor: level for level, site in enumerate(group.sites, 1)}
        over = [a for a in self.tokens.attentions if same(a.tokens, group.tokens)]
        self.region = self.tokens.before(a.product.outputs[0].name for a in over)
        self.along = {(id(c.node), c.slot): c.dims for site in group.sites for c in site.companions}
        self.short: dict[str, int] = {}  # name -> level

    def visit(self, node: gs.Node) -> None:
        """Redirect what a node reads."""
        level = self.group.level(node)
        twin = self.marking.twin[id(node)]
        short = [s for s, t in enumerate(node.inputs) if t.name in self.cuts or t.name in self.short]
        if node.op not in ("Shape", "Size"):
            if not short and id(node) not in self.region:
                return
            if len(short) == 1 and self._is_read(node, short[0]):
                self._redirect_cut(node, twin, short[0])
                self.marking.reads.append(twin)
                return
            if id(node) not in self.region and self._needs_all(node, short):
                for slot in short:
                    self._back(node, twin, slot)
                return
        fewer = bool(short)
        for slot, tensor in enumerate(node.inputs):
            if tensor.name in self.cuts:
                self._redirect_cut(node, twin, slot)
            elif (id(node), slot) in self.along and level:
                dims = self.along[id(node), slot]
                twin.inputs[slot] = self._along(node, twin.inputs[slot], level, dims)
                fewer = True
        for out in node.outputs if fewer else ():
            if any(meets(a, self.group.tokens) for a in self.tokens.analysis.axes.get(out.name, [])):
                self.short[out.name] = level

    def ends(self) -> None:
        """Outputs of the model that are short get all tokens back under their own name."""
        graph = self.marking.model.graph
        for at, (old, tensor) in enumerate(
            zip(self.tokens.analysis.model.graph.outputs, graph.outputs, strict=True)
        ):
            dims = self._dims(old.name)
            if old.name not in self.short or len(dims) != 1:
                continue
            inner = gs.Variable(self.marking.names.new(f"{tensor.name}_short"), tensor.dtype)
            maker = tensor.inputs[0]
            maker.outputs[next(i for i, t in enumerate(maker.outputs) if t is tensor)] = inner
            for node in list(tensor.outputs):
                for slot, each in enumerate(node.inputs):
                    if each is tensor:
                        node.inputs[slot] = inner
            for gap in self.group.gaps:
                if gap.source is tensor:
                    gap.source = inner
            self.marking.holes[inner.name] = tensor.name
            self.group.gaps.append(
                Gap("back", inner, graph.outputs[at], self.short[old.name], dims, old.name)
            )

    def _redirect_cut(self, node: gs.Node, twin: gs.Node, slot: int) -> None:
        level = self.cuts.get(node.inputs[slot].name)
        if level is not None:
            site = self.group.sites[level - 1]
            twin.inputs[slot] = self._short_of(twin.inputs[slot], level, site.dims[1])

    def _along(self, node: gs.Node, source: gs.Tensor, level: int, dims: tuple[int, ...]) -> gs.Variable:
        hole = self.marking.gap(self.group, "along", source, level, dims)
        gap = next(g for g in self.group.gaps if g.hole is hole)
        gap.rank = max(gap.rank, len(self.tokens.analysis.axes.get(node.outputs[0].name, [])))
        return hole

    def _short_of(self, tensor: gs.Tensor, level: int, dim: int) -> gs.Variable:
        return self.marking.gap(self.group, "short", tensor, level, (dim,))

    def _back(self, node: gs.Node, twin: gs.Node, slot: int) -> None:
        name = node.inputs[slot].name
        source, level = twin.inputs[slot], self.short.get(name, 0)
        if name in self.cuts:
            level = self.cuts[name]
            source = self._short_of(source, level, self.group.sites[level - 1].dims[1])
        twin.inputs[slot] = self.marking.gap(self.group, "back", source, level, self._dims(name))

    def _dims(self, name: str) -> tuple[int, ...]:
        axes = self.tokens.analysis.axes.get(name, [])
        return tuple(i for i, a in enumerate(axes) if same(a, self.group.tokens))

    def _is_read(self, node: gs.Node, slot: int) -> bool:
        """Whether single places at the front are read, and nothing else; then they are counted."""
        if slot != 0 or node.op not in ("Gather", "Slice"):
            return False
        dims = self._dims(node.inputs[0].name)
        axes = self.tokens.analysis.axes[node.inputs[0].name]
        last = _last_read(node, len(axes))
        if last is None or len(dims) != 1 or last[0] != dims[0]:
            return False
        if not 0 < last[1] <= min(MOST_FRONT, *(max(2, n // 4) for n in self.group.tokens.size)):
            return False
        self.group.front = max(self.group.front, last[1])
        return True

    def _needs_all(self, node: gs.Node, short: Sequence[int]) -> bool:
        """Whether a node behind the last attention does more than pass each token on by itself."""
        tokens = self.group.tokens
        analysis = self.tokens.analysis
        if any((id(node), s) in self.along for s in range(len(node.inputs))):
            return True
        uses = [u for u in (*analysis.statistics, *analysis.contractions) if u.node is node]
        if any(meets(u.axis, tokens) for u in uses):
            return True
        for slot in range(len(node.inputs)):
            axes = self.tokens.input_axes(node, slot)
            if slot not in short and axes and any(meets(a, tokens) for a in axes):
                return True
        return not all(self._passes(analysis.axes.get(t.name)) for t in node.outputs if t.name)

    def _passes(self, axes: list[Axis] | None) -> bool:
        """Whether the tokens are one dimension of a tensor or a whole factor of one."""
        wanted = [id(a) for a in atoms(self.group.tokens)]
        held = [[id(a) for a in atoms(axis)] for axis in axes or []]
        whole = [any(h[i : i + len(wanted)] == wanted for i in range(len(h))) for h in held]
        touching = [bool(set(h) & set(wanted)) for h in held]
        return sum(whole) == 1 and sum(touching) == 1


def _last_read(node: gs.Node, rank: int) -> tuple[int, int] | None:
    """(dimension, end) of what a Gather or Slice with constant places reads from the front of it."""
    if node.op == "Gather":
        if not isinstance(node.inputs[1], gs.Constant):
            return None
        places = values(node.inputs[1])
        return (
            (node.attrs.get("axis", 0) % rank, int(places.max()) + 1)
            if places.size and places.min() >= 0
            else None
        )
    bounds = [values(t).reshape(-1) if isinstance(t, gs.Constant) else None for t in node.inputs[1:]]
    if len(bounds) < 3 or any(b is None or b.size != 1 for b in bounds):
        return None
    start, end, axis, *step = (int(b[0]) for b in bounds if b is not None)
    if start < 0 or end <= start or (step and step[0] != 1):
        return None
    return axis % rank, end
