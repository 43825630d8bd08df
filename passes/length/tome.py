"""Token merging (Bolya et al., "Token Merging: Your ViT But Faster", ICLR 2023), written from the equations.

Tokens at even places (A) and at odd places (B); each of A looks for the most similar of B by the cosine of
keys, averaged over heads; the r pairs of A's closest tokens become one token each, the mean weighted by how
many tokens (s) stand behind them. From then on softmax(q kT / sqrt(d) + log s). Tokens at the front stay.
Tokens that nobody attends to are padding: they weigh nothing, merge first, and nothing merges into them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from pruneopt.passes.length.counting import Count, Counter, Stage, halves, merged
from pruneopt.passes.length.emit import FLOAT, Emit

Array = npt.NDArray[Any]
NOTHING = 1e-6  # the weight of padding
FAR = 8.0  # more than any difference of cosines


@dataclass(frozen=True, eq=False)
class Merge:
    """A merging stage in the graph.

    Attributes:
        stay: places in A that stay, ascending, int64 [B, A - r].
        gone: places in A that merge, int64 [B, r].
        into: places in B that they merge into, int64 [B, r].
        removed: r.
    """

    stay: gs.Tensor
    gone: gs.Tensor
    into: gs.Tensor
    removed: Count
    even: Count
    odd: Count
    stage: Stage

    @property
    def decisions(self) -> dict[str, str]:
        """Names of the tensors that say who merges with whom."""
        return {"stay": self.stay.name, "gone": self.gone.name, "into": self.into.name}


def starts(stage: Stage) -> tuple[int, int]:
    """First place behind the front of A and of B."""
    return stage.front + stage.front % 2, stage.front + 1 - stage.front % 2


def decide(
    emit: Emit, keys: gs.Tensor, stage: Stage, tokens: Count, first: Count, size: gs.Tensor | None, padded: bool
) -> Merge:
    """Who merges with whom.

    Args:
        emit: where nodes go.
        keys: mean of the keys over heads, [B, T, d].
        stage: how many are to be left.
        tokens: T.
        first: tokens before the first stage.
        size: how many tokens stand behind each, [B, T, 1]; None for one each.
        padded: padding is possible.
    """
    count = Counter(emit)
    even, odd = halves(count, stage, tokens)
    removed = merged(count, stage, tokens, first)
    unit = emit.op("Div", keys, emit.op("Max", emit.norm(keys, 2), np.float32(1e-12)))
    a, b = (emit.slice(unit, 1, [start], step=2) for start in starts(stage))
    scores = emit.op("MatMul", a, emit.op("Transpose", b, perm=[0, 2, 1]))
    pad_a = None
    if padded and size is not None:
        empty = emit.cast(emit.op("Less", size, np.float32(0.5)), FLOAT)
        far = emit.op("Mul", empty, np.float32(FAR))
        pad_a, pad_b = (emit.slice(far, 1, [start], step=2) for start in starts(stage))
        scores = emit.op("Sub", scores, emit.op("Transpose", pad_b, perm=[0, 2, 1]))
    if not isinstance(tokens, int):  # a single token has nobody to look for
        scores = emit.op("Pad", scores, [0, 0, 0, 0, 0, 1], np.float32(-4 * FAR))
    best, whom = emit.top(scores, [1])
    if pad_a is not None:
        best = emit.op("Add", best, emit.op("Mul", pad_a, np.float32(4)))
    ranked = emit.top(emit.squeeze(best, 2), count.line(even))[1]
    gone = emit.slice(ranked, 1, [0], count.line(removed))
    left = emit.slice(ranked, 1, count.line(removed))
    stay = emit.ascending(left, count.line(count.sub(even, removed)))
    into = emit.op("GatherElements", emit.squeeze(whom, 2), gone, axis=1)
    return Merge(stay, gone, into, removed, even, odd, stage)


def apply(emit: Emit, x: gs.Tensor, merge: Merge, size: gs.Tensor | None) -> tuple[gs.Tensor, gs.Tensor]:
    """(tokens [B, T - r, D], how many stand behind each [B, T - r, 1]) from tokens [B, T, D]: front, A, B."""
    a, b = (emit.slice(x, 1, [start], step=2) for start in starts(merge.stage))
    front = [emit.slice(x, 1, [0], [merge.stage.front])] if merge.stage.front else []
    going = emit.rows(a, merge.gone)
    count = Counter(emit)
    places = emit.op("Range", 0, emit.squeeze(count.line(merge.odd), 0), 1) if not isinstance(merge.odd, int) else np.arange(merge.odd)
    pairs = emit.cast(emit.op("Equal", emit.unsqueeze(emit.tensor(places), 0, 2), emit.unsqueeze(merge.into, 1)), FLOAT)
    if size is None:
        weight = emit.op("Add", emit.sum(pairs, 2), np.float32(1))
        mean = emit.op("Div", emit.op("Add", b, emit.op("MatMul", pairs, going)), weight)
        ones = emit.op("Expand", np.float32([[[1]]]), emit.join(emit.size(x, 0), count.line(count.add(merge.stage.front, count.sub(merge.even, merge.removed))), [1]))
        return emit.join(*front, emit.rows(a, merge.stay), mean, axis=1), emit.join(ones, weight, axis=1)
    size_a, size_b = (emit.slice(size, 1, [start], step=2) for start in starts(merge.stage))
    weighed = emit.op("Mul", pairs, emit.op("Transpose", emit.rows(size_a, merge.gone), perm=[0, 2, 1]))
    weight = emit.op("Add", emit.sum(weighed, 2), size_b)
    mean = emit.op(
        "Add", emit.op("Mul", b, emit.op("Div", size_b, weight)), emit.op("MatMul", emit.op("Div", weighed, weight), going)
    )
    size_front = [emit.slice(size, 1, [0], [merge.stage.front])] if merge.stage.front else []
    return (
        emit.join(*front, emit.rows(a, merge.stay), mean, axis=1),
        emit.join(*size_front, emit.rows(size_a, merge.stay), weight, axis=1),
    )


def places(emit: Emit, merge: Merge) -> gs.Tensor:
    """The place before the stage of each token behind it, int64 [B, T - r]."""
    count = Counter(emit)
    start_a, start_b = starts(merge.stage)
    batch = emit.size(merge.stay, 0)
    span = emit.op("Range", 0, emit.squeeze(count.line(merge.odd), 0), 1) if not isinstance(merge.odd, int) else np.arange(merge.odd)
    odd = emit.op("Add", emit.op("Mul", emit.tensor(span), 2), start_b)
    front = [_spread(emit, emit.tensor(np.arange(merge.stage.front)), batch)] if merge.stage.front else []
    a = emit.op("Add", emit.op("Mul", merge.stay, 2), start_a)
    return emit.join(*front, a, _spread(emit, odd, batch), axis=1)


def _spread(emit: Emit, row: gs.Tensor, batch: gs.Tensor) -> gs.Tensor:
    return emit.op("Expand", emit.unsqueeze(row, 0), emit.join(batch, [1]))


def destinations(emit: Emit, merge: Merge, before: gs.Tensor) -> gs.Tensor:
    """The place behind the stage of each token before it, int64 [B, T]; `before` are `places` of it."""
    count = Counter(emit)
    start_a, _ = starts(merge.stage)
    kept_a = count.add(merge.stage.front, count.sub(merge.even, merge.removed))
    behind = emit.op("Add", merge.into, count.line(kept_a))
    total = emit.size(before, 1)
    span = emit.op("Range", 0, emit.squeeze(total, 0), 1)
    at = emit.join(before, emit.op("Add", emit.op("Mul", merge.gone, 2), start_a), axis=1)
    to = emit.join(_spread(emit, span, emit.size(before, 0)), behind, axis=1)
    return emit.op("ScatterElements", to, at, to, axis=1)


def matrix(decisions: dict[str, Array], tokens: int, front: int, size: Array) -> tuple[Array, Array, Array]:
    """What a stage does, in numbers: (weights [B, T', T], places [B, T'], sizes [B, T']) for sizes [B, T]."""
    stay, gone, into = (decisions[k].astype(int) for k in ("stay", "gone", "into"))
    stage = Stage(0, front)
    start_a, start_b = starts(stage)
    b = np.arange(start_b, tokens, 2)
    batch = len(stay)
    fixed = [np.tile(np.arange(front), (batch, 1)), start_a + 2 * stay, np.tile(b, (batch, 1))]
    kept = np.concatenate(fixed, 1)
    weights = np.zeros((batch, kept.shape[1], tokens))
    rows = np.arange(batch)[:, None]
    weights[rows, np.arange(kept.shape[1])[None], kept] = size[rows, kept]
    behind = front + stay.shape[1] + into
    weights[rows, behind, start_a + 2 * gone] = size[rows, start_a + 2 * gone]
    sizes = weights.sum(-1)
    return weights / sizes[..., None], kept, sizes
