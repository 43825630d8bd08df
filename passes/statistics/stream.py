"""A model run piece by piece over all batches: every node runs once, and weights may change before theirs does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from math import prod
from typing import TypeVar

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.analysis.observe import Observation
from pruneopt.arrays import Array, Feeds
from pruneopt.frontends.dimensions import is_dynamic
from pruneopt.frontends.widen import widen, widen_feeds
from pruneopt.model import Model
from pruneopt.passes.context import Context

T = TypeVar("T")
MOST_MADE = 1 << 27  # bytes of outputs that one batch makes
LEAST = 10  # batches, as far as there are rows
ROWS = 32  # of a batch, at most


class Stream:
    """The values of a model's tensors over a set of batches, computed up to what was asked for.

    Attributes:
        model: what runs; nodes that have not run yet may be changed. A copy in float32 where the given one
            has half precision.
        valid: per batch which tokens are not padding, see `valid_tokens`.
        later: names of tensors that will be asked for again, besides those that nodes still wait for.
    """

    def __init__(
        self, model: Model, context: Context, batches: Sequence[Feeds], later: Iterable[str] = ()
    ) -> None:
        self.model = widen(model)
        self.context = context
        self.batches = batches
        self.live: list[dict[str, Array]] = [widen_feeds(b) for b in batches]
        self.valid = [valid_tokens(batch) for batch in batches]
        self.later = Counter(later)
        self._count = len(self.model.graph.nodes)
        self._waiting: dict[int, gs.Node] = {id(n): n for n in self.model.graph.nodes}

    def reach(self, *names: str) -> Iterator[list[Array]]:
        """The named tensors in every batch in turn, running whatever nodes they still need.

        Take all of them: what nobody needs any more is forgotten batch by batch.
        """
        nodes = list(self.needed([name for name in names if name not in self.live[0]]))
        for node in nodes:
            del self._waiting[id(node)]
        needed = {name for node in self._waiting.values() for name in _reads(node)} | set(+self.later)
        made = [t.name for node in nodes for t in node.outputs if t.name in needed | set(names)]
        read = {name for node in nodes for name in _reads(node)} & self.live[0].keys()
        session = self.context.session(self._piece(nodes, sorted(read), made)) if made else None
        for batch, feeds in zip(self.live, self.batches, strict=True):
            if session is not None:
                batch |= session.run({name: batch[name] for name in read})
                self.context.ran(feeds, len(nodes) / self._count)
            yield [batch[name] for name in names]
            for name in batch.keys() - needed:
                del batch[name]

    def branch(self, other: Model, node: gs.Node) -> Stream:
        """A stream of a model that is like this one before a node that has not run yet; this one runs up to there.

        Tensors have the same names in both.
        """
        for _ in self.reach(*_reads(node)):
            pass
        ran = {
            t.name for n in self.model.graph.nodes if id(n) not in self._waiting for t in n.outputs if t.name
        }
        found = Stream(other, self.context, self.batches, self.later)
        found.live = [dict(batch) for batch in self.live]
        for each in found.model.graph.nodes:
            if not ran.isdisjoint(t.name for t in each.outputs):
                del found._waiting[id(each)]
        return found

    def wait_for(self, node: gs.Node) -> None:
        """Count a node that was added to the graph among those that have yet to run."""
        self._waiting[id(node)] = node

    def needed(self, names: Iterable[str]) -> Iterator[gs.Node]:
        """The waiting nodes that the named tensors depend on, in graph order."""
        wanted = set(names)
        chosen: set[int] = set()
        for node in reversed(self.model.graph.nodes):
            if id(node) in self._waiting and any(t.name in wanted for t in node.outputs):
                chosen.add(id(node))
                wanted.update(_reads(node))
        yield from (node for node in self.model.graph.nodes if id(node) in chosen)

    def _piece(self, nodes: list[gs.Node], read: Sequence[str], made: Sequence[str]) -> Model:
        whole = self.model.graph
        inputs = [gs.Variable(name, self.live[0][name].dtype) for name in read]
        for tensor, name in zip(inputs, read, strict=True):
            value = self.live[0][name]
            # A Resize is not loaded whose `sizes` are a vector of unknown length; sizes are as many in every batch.
            counts = value.ndim == 1 and value.dtype.kind == "i"
            alike = counts and all(batch[name].shape == value.shape for batch in self.live)
            tensor.shape = list(value.shape) if alike else [None] * value.ndim
        outputs = [gs.Variable(name) for name in made]
        piece = gs.Graph(
            nodes, inputs, outputs, name="piece", opset=whole.opset, import_domains=whole.import_domains
        )
        return Model(piece, self.model.header)


def _reads(node: gs.Node) -> set[str]:
    """Names of the variables that a node, or a body of it, reads."""
    names = {t.name for t in node.inputs if isinstance(t, gs.Variable) and t.name}
    for body in node.subgraphs(recursive=True):
        names |= {t.name for inner in body.nodes for t in inner.inputs if isinstance(t, gs.Variable)}
        names |= {t.name for t in body.outputs}
    return names


def valid_tokens(feeds: Feeds) -> Array | None:
    """Which of batch * length tokens an input called a mask, of zeros and ones, keeps; None without such an input."""
    for name, array in feeds.items():
        if (
            "mask" in name.lower()
            and array.ndim == 2
            and array.dtype.kind in "biuf"
            and np.isin(array, (0, 1)).all()
        ):
            return array.reshape(-1) != 0 if array.any() else None
    return None


def by_rows(model: Model) -> bool:
    """Whether every input has a dynamic first dimension, so that a batch can be taken apart into its rows."""
    return all(t.shape and is_dynamic(t.shape[0]) for t in model.inputs)


def split_batches(model: Model, batches: Sequence[Feeds], most: int) -> list[Feeds]:
    """Large batches cut along axis 0 into pieces of at most `most`, where the model takes any number of rows."""
    pieces: list[Feeds] = []
    for feeds in batches:
        count = _rows(feeds) or 1
        if count <= most or not by_rows(model):
            pieces.append(feeds)
            continue
        cuts = range(0, count, most)
        pieces += [
            {name: np.ascontiguousarray(array[i : i + most]) for name, array in feeds.items()} for i in cuts
        ]
    return pieces


def small_batches(context: Context) -> list[Feeds]:
    """The calibration data, at most `ROWS` rows at a time."""
    model = context.original
    return list(context.calibration) if model is None else split_batches(model, context.calibration, ROWS)


def portions(batches: Sequence[Feeds], model: Model, seen: Observation) -> list[Feeds]:
    """Batches cut so that outputs of one stay below `MOST_MADE` bytes, and that there are at least `LEAST` to hold some
    out of, as far as rows suffice.

    Args:
        batches: feeds.
        model: what they are for.
        seen: what its tensors look like.
    """
    rows = [_rows(feeds) or 0 for feeds in batches]
    given = sum(prod(size[-1] for size in seen.shapes[t.name]) for t in model.inputs)
    made = sum(prod(size[-1] for size in seen.shapes.get(t.name, ())) for t in model.outputs)
    sizes = [
        sum(array.size for array in feeds.values()) / max(n, 1)
        for feeds, n in zip(batches, rows, strict=True)
    ]
    most = int(MOST_MADE / max(4.0 * max(sizes, default=0) * made / max(given, 1), 1.0))
    if len(batches) < LEAST:
        most = min(most, sum(rows) // LEAST)
    return split_batches(model, batches, max(1, most))


def _rows(feeds: Feeds) -> int | None:
    """Size of axis 0; None where inputs do not agree on it."""
    sizes = {array.shape[0] if array.ndim else 1 for array in feeds.values()}
    return sizes.pop() if len(sizes) == 1 else None


def hold_out(batches: Sequence[T], every: int = 5) -> tuple[list[T], list[T]]:
    """(to fit on, to validate on): every fifth batch, or of fewer the last; a single one serves for both."""
    every = min(every, len(batches)) if len(batches) > 1 else every
    held = [b for i, b in enumerate(batches) if i % every == every - 1]
    rest = [b for i, b in enumerate(batches) if i % every != every - 1]
    return (rest, held) if held else (list(batches), list(batches))
