"""A cache of a fixed number of tokens.

Xiao et al., "Efficient Streaming Language Models with Attention Sinks", ICLR 2024.

Of the tokens behind a step the first few, on which attentions rest, and the last ones are handed on; what is between
goes. Places are counted inside the cache: keys that were turned by their place are moved by the number of tokens that
went, and the next token's place follows from the length of the cache, as it did before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from pruneopt.analysis.axes import Axis, atoms
from pruneopt.analysis.infer import Analysis, analyse
from pruneopt.analysis.tokens import Tokens
from pruneopt.arrays import Array, Feeds
from pruneopt.errors import PruneoptError
from pruneopt.model import Model
from pruneopt.passes.base import Outcome
from pruneopt.passes.context import Context
from pruneopt.passes.length.cache.found import Cache, find_caches, positions
from pruneopt.passes.length.cache.turning import Place, Turning, Turnings
from pruneopt.passes.length.emit import Emit, order
from pruneopt.passes.length.extent.constants import steers
from pruneopt.passes.rewriting.edits import move_inside

MORE = 5  # tokens that the proof's caches have beyond the budget


@dataclass(frozen=True)
class Budget:
    """Tokens that a cache hands on at most, `sinks` of them from the front."""

    most: int
    sinks: int


def within(model: Model, budget: Budget, context: Context) -> Outcome:
    """The model whose caches never hold more than the budget.

    Raises:
        PruneoptError: it has no cache, or places are part of its tokens themselves.
    """
    analysis = analyse(model, context.observation(model), context.keep, free_ends=True)
    caches = find_caches(analysis)
    if not caches:
        raise PruneoptError(
            "length: no input of this model comes back as an output with new tokens behind it"
        )
    turnings = Turnings(analysis, positions(analysis, caches[0]))
    turned = {c.present.name: turnings.of(c.fresh) for c in caches}
    _check(analysis, turnings, [each for each in turned.values() if each])
    small = _rewritten(analysis, caches, turned, turnings, budget)
    entry = {
        "caches": [c.present.name for c in caches],
        "moved": [name for name, each in turned.items() if each],
        "signature": [f"{c.present.name} holds at most {budget.most} tokens" for c in caches],
    }
    return Outcome(small, entry, Evicted(analysis, caches, turned, turnings, budget))


def _check(analysis: Analysis, turnings: Turnings, keys: Sequence[Turning]) -> None:
    """Places may turn keys and queries and steer attentions, nothing else."""
    queries = [turnings.of(each.query) for each in Tokens(analysis).attentions]
    known = {id(n) for each in (*keys, *queries) if each for n in each.nodes}
    for node in turnings.readers():
        if id(node) not in known and node.op != "Softmax" and not steers(node):
            raise PruneoptError(
                f"length: {node.op} '{node.name}' puts places counted from the start into its tokens; "
                "in a cache with gaps they would be wrong"
            )


def _rewritten(
    analysis: Analysis,
    caches: Sequence[Cache],
    turned: dict[str, Turning | None],
    turnings: Turnings,
    budget: Budget,
) -> Model:
    model = analysis.model.copy()
    emit = Emit(model)
    outputs = {t.name: t for t in model.graph.outputs}
    first = outputs[caches[0].present.name]
    gone = emit.op("Max", emit.op("Sub", emit.size(first, caches[0].dim), [budget.most]), [0])
    start = emit.op("Add", gone, [budget.sinks])

    def moves(by: gs.Tensor) -> Place:
        return lambda place: _one(emit, by, place, analysis)

    for cache in caches:
        whole = _inner(emit, outputs[cache.present.name])
        sinks = emit.slice(whole, cache.dim, [0], [budget.sinks])
        recent: gs.Tensor = emit.slice(whole, cache.dim, start)
        turning = turned[cache.present.name]
        if turning is not None:
            recent = turnings.again(emit, turning, recent, moves(emit.op("Neg", gone)))
        emit.op("Concat", sinks, recent, axis=cache.dim, out=outputs[cache.present.name])
    return order(model)


def _inner(emit: Emit, tensor: gs.Variable) -> gs.Variable:
    """What an output was until now, under another name; its readers go on reading it."""
    return move_inside(tensor, emit.names.new(f"{tensor.name}_whole"))


def _one(emit: Emit, value: gs.Tensor, like: gs.Tensor, analysis: Analysis) -> gs.Tensor:
    """A single number, a line, in the rank and type of a tensor of places."""
    known = analysis.seen.values[like.name][0]
    kind = int(onnx.helper.np_dtype_to_tensor_dtype(known.dtype))
    return emit.op("Reshape", emit.cast(value, kind), [1] * known.ndim)


@dataclass(frozen=True)
class Evicted:
    """The claim that all is as it was, but for the tokens that are not handed on, and the places of the others.

    A key of this step that has moved must be what the model would have made of it at its new place.
    """

    analysis: Analysis
    caches: Sequence[Cache]
    turned: dict[str, Turning | None]
    turnings: Turnings
    budget: Budget

    def references(self) -> Iterator[tuple[Model, Feeds]]:
        """The original with tokens picked from its caches, on caches that are longer than the budget."""
        for run, feeds in enumerate(self.analysis.seen.feeds):
            longer = self._longer(feeds, run)
            past = longer[self.caches[0].past.name].shape[self.caches[0].dim]
            shapes = self.analysis.seen.shapes
            dim = self.caches[0].dim
            new = shapes[self.caches[0].present.name][dim][run] - shapes[self.caches[0].past.name][dim][run]
            yield self._picked(past, new), longer

    def count(self) -> int:
        """Number of caches."""
        return len(self.caches)

    def kept(self, name: str, array: Array, run: int) -> Array | None:
        """Nothing is said of inner tensors."""
        return None

    def _longer(self, feeds: Feeds, run: int) -> Feeds:
        """Batches whose caches are beyond the budget; whatever else counts their tokens grows alike."""
        axes = self.analysis.axes
        cache = self.caches[0]
        line = axes[cache.past.name][cache.dim]
        more = max(0, self.budget.most + MORE - line.size[run])
        found = {}
        for name, array in feeds.items():
            for dim, axis in enumerate(axes.get(name, [])):
                if _holds(axis, line):
                    places = np.r_[np.arange(more) % line.size[run], np.arange(array.shape[dim])]
                    array = np.take(array, places, axis=dim)
            found[name] = array
        return found

    def _picked(self, past: int, new: int) -> Model:
        model = self.analysis.model.copy()
        emit = Emit(model)
        gone = max(0, past + new - self.budget.most)
        kept = np.r_[: self.budget.sinks, self.budget.sinks + gone : past + new]
        outputs = {t.name: t for t in model.graph.outputs}
        tensors = model.graph.tensors()
        for cache in self.caches:
            whole: gs.Tensor = _inner(emit, outputs[cache.present.name])
            turning = self.turned[cache.present.name]
            if turning is not None:
                whole = self._moved(emit, whole, cache, turning, tensors, (past, gone))
            emit.op("Gather", whole, kept, axis=cache.dim, out=outputs[cache.present.name])
        return order(model)

    def _moved(
        self,
        emit: Emit,
        whole: gs.Tensor,
        cache: Cache,
        turning: Turning,
        tensors: dict[str, gs.Tensor],
        counts: tuple[int, int],
    ) -> gs.Tensor:
        """Sinks as they are, the rest of the past moved back, new keys made anew at their new places."""
        past, gone = counts
        back = emit.tensor([-gone])
        old = emit.slice(whole, cache.dim, [self.budget.sinks], [past])
        old = self.turnings.again(emit, turning, old, lambda t: _one(emit, back, t, self.analysis))

        def earlier(place: gs.Tensor) -> gs.Tensor:
            return emit.op("Add", place, _one(emit, back, place, self.analysis))

        fresh = self.turnings.again(emit, turning, tensors[turning.root], earlier)
        return emit.join(emit.slice(whole, cache.dim, [0], [self.budget.sinks]), old, fresh, axis=cache.dim)


def _holds(axis: Axis, line: Axis) -> bool:
    return any(a is b for a in atoms(axis) for b in atoms(line))
