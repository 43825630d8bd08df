"""Columns that are padding in every row of a batch go before the model runs; its outputs get them back as zeros.

    n = the last column that any row keeps;  x' = x[:, :n];  y = y' | 0

Cheap, and exact for a model that lets no padded token have a say in a real one: that is what is proved, on masks with
padding at the end. Outputs at padded places, which mean nothing, are zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.analysis.axes import Axis
from pruneopt.analysis.infer import Analysis, analyse
from pruneopt.analysis.tokens import meets, same
from pruneopt.arrays import Array, Feeds
from pruneopt.errors import PruneoptError
from pruneopt.frontends.dimensions import is_dynamic, key_of
from pruneopt.model import Model
from pruneopt.passes.base import Outcome
from pruneopt.passes.context import Context
from pruneopt.passes.length.emit import INT64, Emit, order
from pruneopt.passes.length.extent.ends import End, find_ends
from pruneopt.passes.proof import prove
from pruneopt.passes.rewriting.edits import move_inside, read_instead

CARRIERS = {"Cast", "Unsqueeze", "Identity", "Reshape", "Squeeze", "Expand"}


def without_padding(model: Model, context: Context) -> Outcome:
    """The model, run on as many columns as the longest row of the batch has.

    Raises:
        PruneoptError: its inputs have no length that may change, or no mask.
    """
    analysis = analyse(model, context.observation(model), context.keep, free_ends=True)
    found = _texts(analysis)
    masks = [e for e in found if len(analysis.axes[e.tensor.name]) == 2 and not _is_looked_up(e.tensor)]
    if len(masks) != 1:
        many = "several inputs" if masks else "no input"
        raise PruneoptError(f"length: {many} of this model can be the mask that says what is padding")
    short = _trimmed(analysis, found, masks[0])
    claim = Unpadded(analysis, masks[0], [end.axis for end in found])
    try:
        prove(short, claim, context)
    except PruneoptError as error:
        raise PruneoptError(
            f"length: no padding can go: padded tokens have a say in what becomes of real ones ({error})"
        ) from None
    entry = {"mask": masks[0].tensor.name, "inputs": [end.tensor.name for end in found]}
    return Outcome(short, entry, claim)


def _texts(analysis: Analysis) -> list[End]:
    """The inputs of tokens, all of one length that may be any."""
    ends = [end for end in find_ends(analysis) if end.role == "sequence"]
    loose = [end for end in ends if not end.axis.static]
    if not loose:
        why = "its length is fixed; give sequence" if ends else "it has no input of tokens"
        raise PruneoptError(f"length: no padding can go: {why}")
    first = [end for end in loose if _alike(end, loose[0])]
    others = [t.name for t in analysis.model.graph.inputs if t.name not in {end.tensor.name for end in first}]
    held = [n for n in others if any(meets(a, first[0].axis) for a in analysis.axes.get(n, []))]
    if held:
        raise PruneoptError(f"length: input '{held[0]}' has the tokens in another place than the rest")
    return first


def _alike(a: End, b: End) -> bool:
    """Whether two lengths are one: to the algebra, or by the name that the model gives to both."""
    return same(a.axis, b.axis) or (
        a.axis.size == b.axis.size and is_dynamic(a.tensor.shape[a.dim]) and _named(a) == _named(b)
    )


def _named(end: End) -> str:
    return key_of(end.tensor, end.dim)


def _is_looked_up(tensor: gs.Tensor) -> bool:
    """Whether entries are rows of a table."""
    waiting = [tensor]
    while waiting:
        now = waiting.pop()
        for node in now.outputs:
            if node.op == "Gather" and any(t is now for t in node.inputs[1:]):
                return True
            waiting += node.outputs if node.op in CARRIERS else []
    return False


def _trimmed(analysis: Analysis, ends: Sequence[End], mask: End) -> Model:
    model = analysis.model.copy()
    graph, emit = model.graph, Emit(model)
    inputs = {t.name: t for t in graph.inputs}
    readers = {end: list(inputs[end.tensor.name].outputs) for end in ends}
    whole = emit.size(inputs[mask.tensor.name], mask.dim)
    number = _longest(emit, inputs[mask.tensor.name], mask.dim, whole)
    for end in ends:
        tensor = inputs[end.tensor.name]
        short = emit.slice(tensor, end.dim, [0], number)
        short.dtype = tensor.dtype
        read_instead(tensor, short, readers[end])
    missing = emit.op("Sub", whole, number)
    for tensor in list(graph.outputs):
        _pad(emit, tensor, analysis.axes.get(tensor.name, []), [end.axis for end in ends], missing)
    return order(model)


def _longest(emit: Emit, mask: gs.Tensor, dim: int, whole: gs.Tensor) -> gs.Tensor:
    """The last column that a row keeps, counted from 1; at least one column. A line."""
    real = emit.cast(emit.cast(mask, 9), INT64)  # by way of booleans: whatever is not zero
    places = emit.op("Add", emit.op("Range", 0, emit.squeeze(whole, 0), 1), 1)
    last = emit.op("Mul", real, places if dim else emit.unsqueeze(places, 1))
    flat = emit.op("Reshape", last, [-1])
    return emit.op("Max", emit.top(flat, [1], 0)[0], [1])


def _pad(
    emit: Emit, tensor: gs.Variable, axes: Sequence[Axis], lengths: Sequence[Axis], missing: gs.Tensor
) -> None:
    """An output of fewer columns gets zeros behind them, under its own name."""
    dims = _dims(axes, lengths)
    if any(meets(axis, each) and i not in dims for i, axis in enumerate(axes) for each in lengths):
        raise PruneoptError(f"length: output '{tensor.name}' holds its tokens as part of a larger dimension")
    if not dims:
        return
    inner = move_inside(tensor, emit.names.new(f"{tensor.name}_real"))
    behind = [missing if i in dims else [0] for i in range(len(axes))]
    emit.op("Pad", inner, emit.join([0] * len(axes), *behind), out=tensor)


def _dims(axes: Sequence[Axis], lengths: Sequence[Axis]) -> list[int]:
    return [i for i, axis in enumerate(axes) if any(same(axis, each) for each in lengths)]


@dataclass(frozen=True)
class Unpadded:
    """The claim that real tokens are what they were, and outputs of padding are zero.

    Attributes:
        analysis: of the model as it was.
        mask: the input that says what is padding.
        lengths: axes of tokens.
    """

    analysis: Analysis
    mask: End
    lengths: Sequence[Axis]

    def references(self) -> Iterator[tuple[Model, Feeds]]:
        """The original with padded places of its outputs set to zero, on batches with padding at the end."""
        model = self._silenced()
        for feeds in self.analysis.seen.feeds:
            yield model, self._padded(feeds)

    def count(self) -> int:
        """One length."""
        return 1

    def kept(self, name: str, array: Array, run: int) -> Array | None:
        """Nothing is said of inner tensors."""
        return None

    def _padded(self, feeds: Feeds) -> Feeds:
        mask = np.ones_like(feeds[self.mask.tensor.name])
        count = mask.shape[1]
        for row in range(len(mask)):
            mask[row, max(1, count - count // 3 - row) :] = 0
        return {**feeds, self.mask.tensor.name: mask}

    def _silenced(self) -> Model:
        model = self.analysis.model.copy()
        emit = Emit(model)
        mask = next(t for t in model.graph.inputs if t.name == self.mask.tensor.name)
        number = _longest(emit, mask, self.mask.dim, emit.size(mask, self.mask.dim))
        for at, tensor in enumerate(model.graph.outputs):
            axes = self.analysis.axes.get(tensor.name, [])
            for dim in _dims(axes, self.lengths):
                span = emit.op("Range", 0, emit.squeeze(emit.size(tensor, dim), 0), 1)
                shape = [-1 if i == dim else 1 for i in range(len(axes))]
                real = emit.op("Reshape", emit.op("Less", span, number), shape)
                inner = move_inside(tensor, emit.names.new(f"{tensor.name}_all"))
                zero = emit.op("Sub", inner, inner)
                model.graph.outputs[at] = emit.op("Where", real, inner, zero, out=tensor)
        return order(model)
