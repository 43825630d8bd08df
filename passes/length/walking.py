"""Follows tokens through a graph in order: what is short behind a site, and where all are needed again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import onnx_graphsurgeon as gs

from pruneopt.analysis.axes import Axis, atoms
from pruneopt.analysis.cuts import Site
from pruneopt.analysis.tokens import meets, same
from pruneopt.model import values
from pruneopt.passes.length.gaps import Gap, Group
from pruneopt.passes.rewriting.edits import move_inside

if TYPE_CHECKING:
    from pruneopt.passes.length.marking import Marking

MOST_FRONT = 16  # places at the front that may be read one by one


class Walk:
    """Visits the nodes behind the first site in order, and knows which tensors are short."""

    def __init__(self, marking: Marking, group: Group) -> None:
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
        home = self.group.home
        if home is not None and id(node) in home.behind:
            self._at_home(node, home)
            return
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

    def _at_home(self, node: gs.Node, home: Site) -> None:
        """Behind a home all tokens are there; what is read of them one by one still says who must stay."""
        twin = self.marking.twin[id(node)]
        for slot, tensor in enumerate(node.inputs):
            if tensor.name == home.tensor:
                last = len(self.group.sites)
                dims = (home.dims[1],)
                twin.inputs[slot] = self.marking.gap(self.group, "back", twin.inputs[slot], last, dims)
        if node.inputs and isinstance(node.inputs[0], gs.Variable):
            self._is_read(node, 0)

    def ends(self) -> None:
        """Outputs of the model that are short get all tokens back under their own name."""
        graph = self.marking.model.graph
        for at, (old, tensor) in enumerate(
            zip(self.tokens.analysis.model.graph.outputs, graph.outputs, strict=True)
        ):
            dims = self._dims(old.name)
            if old.name not in self.short or len(dims) != 1:
                continue
            inner = move_inside(tensor, self.marking.names.new(f"{tensor.name}_short"))
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
        axes = self.tokens.analysis.axes.get(node.inputs[0].name, [])
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
