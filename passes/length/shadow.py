"""The claim: the original graph at full length, in which merged tokens stay where they were.

At each site every token becomes what the rewritten graph made of it, by a matrix computed here in NumPy from
who went where; a softmax over the tokens then sees one of each, by a bias of minus infinity for the others
and the logarithm of its size. All shapes, masks and literals are the original's, so nothing of the rewrite
but the choice itself (tested against the published equations) is taken for granted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.analysis.cuts import Site
from pruneopt.analysis.tokens import Tokens, same
from pruneopt.arrays import Array, Feeds
from pruneopt.model import Model, makers
from pruneopt.passes.context import Context
from pruneopt.passes.length import tome, topk
from pruneopt.passes.length.emit import Emit, order
from pruneopt.passes.length.filling import Filled
from pruneopt.passes.length.scores import fitted, heads_of
from pruneopt.passes.rewriting.edits import read_instead
from pruneopt.passes.rewriting.shrink import twins

NEVER = -1e30  # exp of it is zero


@dataclass(frozen=True)
class Shadow:
    """The claim that `model`, made of the graph of `tokens`, does what it says."""

    model: Model
    tokens: Tokens
    filled: Sequence[Filled]
    feeds: Sequence[Feeds]
    context: Context

    def references(self) -> Iterator[tuple[Model, Feeds]]:
        """The original with what happened to each of the inputs written into it."""
        names = [n for f in self.filled for d in f.decisions for n in d.values()] + [
            f.real for f in self.filled if f.real
        ]
        made = makers(self.model.graph)
        names = [name for name in names if name in made]  # what nothing needed is gone
        session = self.context.session(self.model, names, optimize=False) if names else None
        for run, feeds in enumerate(self.feeds):
            found = session.run(feeds) if session else {}
            yield self._reference(found, run), feeds

    def count(self) -> int:
        """Number of sites."""
        return sum(len(f.group.sites) for f in self.filled)

    def kept(self, name: str, array: Array, run: int) -> Array | None:
        """Nothing is said of inner tensors: their lengths differ."""
        return None

    def _reference(self, found: dict[str, Array], run: int) -> Model:
        original = self.tokens.analysis.model
        model = original.copy()
        nodes = twins(original, model)
        for filled in self.filled:
            _Group(model, nodes, self.tokens, filled, found, run).write()
        return order(model)


@dataclass
class _State:
    spots: Array  # [B, T'] original places of the current tokens
    where: Array  # [B, T] current place of each original token
    sizes: Array  # [B, T']


class _Group:
    def __init__(
        self,
        model: Model,
        nodes: dict[int, gs.Node],
        tokens: Tokens,
        filled: Filled,
        found: dict[str, Array],
        run: int,
    ) -> None:
        self.emit = Emit(model)
        self.nodes = nodes
        self.tokens = tokens
        self.filled = filled
        self.found = found
        self.length = filled.group.tokens.size[run]
        self.tensors = model.graph.tensors()

    def write(self) -> None:
        """All sites, and the biases between them."""
        state: _State | None = None
        dropped: list[Array] = []
        for level, site in enumerate(self.filled.group.sites, 1):
            before = state.spots if state is not None else None
            weights, state = self._step(level, state)
            dropped.append(self._dropped(level, before))
            self._mix(site.tensor, site.dims, weights)
            self._biases(level, state)
        if self.filled.group.home is not None:
            self._come_back(self.filled.group.home, dropped)
        else:
            self._level_out(state)

    def _dropped(self, level: int, before: Array | None) -> Array:
        """[B, T, 1]: whether a token is there before a site, and is not among those that stay themselves."""
        kept = self.found.get(self.filled.decisions[level - 1].get("kept", ""))
        if kept is None or self.filled.group.home is None:
            return np.zeros((1, self.length, 1), bool)
        places = kept[..., 0].astype(int)
        spots = np.tile(np.arange(self.length), (len(places), 1)) if before is None else before
        found = np.zeros((len(places), self.length), bool)
        np.put_along_axis(found, spots, True, axis=1)
        np.put_along_axis(found, np.take_along_axis(spots, places, 1), False, axis=1)
        return found[..., None]

    def _come_back(self, home: Site, dropped: Sequence[Array]) -> None:
        """Behind the home, tokens are what they were where they were dropped; the first drop counts."""
        emit, tensor = self.emit, self.tensors[home.tensor]
        readers = list(tensor.outputs)
        whole = emit.transpose(tensor, home.dims)
        for site, gone in reversed(list(zip(self.filled.group.sites, dropped, strict=True))):
            old = emit.transpose(self.tensors[site.tensor], site.dims)
            whole = emit.op("Where", gone, old, whole)
        back = emit.transpose(whole, [home.dims.index(i) for i in range(3)])
        read_instead(tensor, back, readers)

    def _step(self, level: int, state: _State | None) -> tuple[Array, _State]:
        """([B, T, T] that turns every token into what it became, what holds behind the site)."""
        plan = self.filled.plan
        chosen = {k: self.found[n] for k, n in self.filled.decisions[level - 1].items() if n in self.found}
        batch = len(next(iter(chosen.values()))) if chosen else 1
        span = np.tile(np.arange(self.length), (batch, 1))
        if state is None:
            real = self.found[self.filled.real][..., 0] if self.filled.real else np.ones((batch, self.length))
            state = _State(span, span, real)
        tokens = state.spots.shape[1]
        rows = np.arange(batch)[:, None]
        if plan.method == "tome":
            weights, kept, sizes = tome.matrix(chosen, tokens, filled_front(self.filled), state.sizes)
        elif plan.method == "topk":
            weights, kept = topk.matrix(chosen, tokens)
            sizes = np.ones(kept.shape)
        else:
            kept = plan.places[level - 1][None]
            weights, sizes = np.eye(tokens)[kept], np.ones(kept.shape)
        step = _destinations(weights, kept, plan.method)
        spots = state.spots[rows, kept]
        where = step[rows, state.where]
        if plan.method == "static":
            where = np.abs(np.arange(self.length)[:, None] - spots[0][None]).argmin(1)[None]
        full = np.zeros((batch, weights.shape[1], self.length))
        np.put_along_axis(full, np.broadcast_to(state.spots[:, None, :], weights.shape), weights, axis=2)
        return full[rows, where], _State(spots, where, sizes)

    def _mix(self, name: str, dims: tuple[int, int, int], weights: Array) -> None:
        emit, cut = self.emit, self.tensors[name]
        readers = list(cut.outputs)
        mixed = emit.op("MatMul", weights.astype(np.float32), emit.wide(emit.transpose(cut, dims)))
        mixed = emit.like(emit.transpose(mixed, [dims.index(i) for i in range(3)]), cut)
        read_instead(cut, mixed, readers)

    def _biases(self, level: int, state: _State) -> None:
        group = self.filled.group
        never = np.full(state.where.shape, NEVER)
        logs = np.log(state.sizes) if self.filled.plan.method == "tome" else np.zeros(state.sizes.shape)
        np.put_along_axis(never, state.spots, logs, axis=1)
        row = self.emit.tensor(never.astype(np.float32)[..., None])
        for attention in self.tokens.attentions:
            if same(attention.tokens, group.tokens) and group.level(attention.softmax) == level:
                softmax = self.nodes[id(attention.softmax)]
                heads = heads_of(self.tokens, attention, group.sites[0])
                scores, bias = softmax.inputs[0], fitted(self.emit, row, heads)
                softmax.inputs[0] = self.emit.op("Add", scores, self.emit.like(bias, scores))

    def _level_out(self, state: _State | None) -> None:
        """Where all tokens come back, each is what the one that stands for it is."""
        if state is None:
            return
        emit = self.emit
        rows = np.arange(len(state.where))[:, None]
        chiefs = np.asarray(state.spots[rows, state.where], np.int64)
        cuts = {site.tensor for site in self.filled.group.sites}
        last = len(self.filled.group.sites)
        for gap in self.filled.group.of("back", last):
            if gap.origin in cuts:
                continue
            tensor = self.tensors[gap.origin]
            axes = self.tokens.analysis.axes[gap.origin]
            index = chiefs.reshape(
                [len(chiefs) if i == 0 else -1 if i == gap.dims[0] else 1 for i in range(len(axes))]
            )
            readers, outputs = list(tensor.outputs), self.emit.model.graph.outputs
            own = emit.op("Expand", index, emit.op("Shape", tensor)) if gap.dims[0] else None
            if own is None:
                continue
            level = emit.op("GatherElements", tensor, own, axis=gap.dims[0])
            read_instead(tensor, level, readers)
            for at, output in enumerate(outputs):
                if output is tensor:
                    self._rename(tensor, level)
                    outputs[at] = level

    def _rename(self, tensor: gs.Variable, level: gs.Variable) -> None:
        """An output keeps its name and type."""
        level.name, tensor.name = tensor.name, self.emit.names.new(f"{tensor.name}_own")
        level.dtype, level.shape = tensor.dtype, tensor.shape


def filled_front(filled: Filled) -> int:
    """Tokens at the front that stay."""
    return filled.plan.stages[0].front


def _destinations(weights: Array, kept: Array, method: str) -> Array:
    """[B, T]: the row to which each token goes."""
    if method == "topk":
        step = np.full((weights.shape[0], weights.shape[2]), weights.shape[1] - 1)
        span = np.tile(np.arange(kept.shape[1] - 1), (kept.shape[0], 1))
        np.put_along_axis(step, kept[:, :-1], span, axis=1)
        return step
    return np.asarray(weights.argmax(1))
