"""Token merging (Bolya et al., "Token Merging: Your ViT But Faster", ICLR 2023), written from the equations.

Tokens at even places (A) and at odd places (B); each of A looks for the most similar of B by the cosine of
keys, averaged over heads; the r pairs of A's closest tokens become one token each, the mean weighted by how
many tokens (s) stand behind them. From then on softmax(q kT / sqrt(d) + log s). Tokens at the front stay.
Tokens that nobody attends to are padding: they weigh nothing, merge first, and nothing merges into them.

Behind a stage tokens are in the order front, A that stays (ascending), B. What runs over all tokens and
channels is done once: one gather, one scaling, one sum; everything else is small.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.arrays import Array
from pruneopt.passes.length.counting import Count, Counter, Stage, halves, merged
from pruneopt.passes.length.emit import FLOAT, Emit

NOTHING = 1e-6  # the weight of padding
FAR = 8.0  # more than any difference of cosines


@dataclass(frozen=True, eq=False)
class Merge:
    """A merging stage in the graph; all places are int64 [B, number, 1].

    Attributes:
        stay: places in A that stay, ascending.
        gone: places in A that merge, r of them.
        into: places in B that they merge into.
        source: places of what merges among the tokens before the stage.
        places: places before the stage of all tokens behind it.
        ahead: number of tokens behind the stage in front of B.
        left: number of tokens behind the stage.
    """

    stay: gs.Tensor
    gone: gs.Tensor
    into: gs.Tensor
    source: gs.Tensor
    places: gs.Tensor
    ahead: Count
    left: Count

    @property
    def decisions(self) -> dict[str, str]:
        """Names of the tensors that say who merges with whom."""
        return {"stay": self.stay.name, "gone": self.gone.name, "into": self.into.name}


def starts(stage: Stage) -> tuple[int, int]:
    """First place behind the front of A and of B."""
    return stage.front + stage.front % 2, stage.front + 1 - stage.front % 2


def decide(
    emit: Emit,
    keys: gs.Tensor,
    zero: gs.Tensor,
    stage: Stage,
    tokens: Count,
    first: Count,
    size: gs.Tensor | None,
    padded: bool,
) -> Merge:
    """Who merges with whom.

    Args:
        emit: where nodes go.
        keys: mean of the keys over heads, [B, T, d].
        zero: zeros, int64 [B, 1, 1].
        stage: how many are to be left.
        tokens: T.
        first: tokens before the first stage.
        size: how many tokens stand behind each, [B, T, 1]; None for one each.
        padded: padding is possible.
    """
    count = Counter(emit)
    even, odd = halves(count, stage, tokens)
    removed = merged(count, stage, tokens, first)
    kept = count.sub(even, removed)
    best, whom = _closest(emit, keys, stage, tokens, size if padded else None)
    ranked = emit.top(best, count.line(even), 1)[1]
    gone, left = emit.parted(ranked, count.line(removed), count.line(kept))
    stay = emit.ascending(left, count.line(kept))
    into = emit.op("GatherElements", whom, gone, axis=1)
    start_a, start_b = starts(stage)
    front = [emit.op("Add", zero, np.arange(stage.front).reshape(1, -1, 1))] if stage.front else []
    behind = emit.op("Add", zero, _every_second(emit, start_b, odd))
    places = emit.join(*front, _place(emit, stay, start_a, even), behind, axis=1)
    ahead = count.add(stage.front, kept)
    return Merge(stay, gone, into, _place(emit, gone, start_a, even), places, ahead, count.add(ahead, odd))


def _closest(
    emit: Emit, keys: gs.Tensor, stage: Stage, tokens: Count, size: gs.Tensor | None
) -> tuple[gs.Tensor, gs.Tensor]:
    """([B, A, 1] similarity to the most similar of B, its place in B)."""
    unit = emit.op("LpNormalization", keys, axis=2, p=2)
    a, b = (emit.slice(unit, 1, [start], step=2) for start in starts(stage))
    scores = emit.op("MatMul", a, emit.op("Transpose", b, perm=[0, 2, 1]))
    bonus = None
    if size is not None:
        empty = emit.cast(emit.op("Less", size, np.float32(0.5)), FLOAT)
        far = emit.op("Mul", empty, np.float32(FAR))
        bonus, malus = (emit.slice(far, 1, [start], step=2) for start in starts(stage))
        scores = emit.op("Sub", scores, emit.op("Transpose", malus, perm=[0, 2, 1]))
    if not isinstance(tokens, int):  # a single token has nobody to look for
        scores = emit.op("Pad", scores, [0, 0, 0, 0, 0, 1], np.float32(-4 * FAR))
    best, whom = emit.top(scores, [1], 2)
    return (best if bonus is None else emit.op("Add", best, emit.op("Mul", bonus, np.float32(4)))), whom


def _place(emit: Emit, at: gs.Tensor, start: int, number: Count) -> gs.Tensor:
    """Places in A as places among all tokens."""
    if isinstance(number, int):
        return emit.op("Gather", start + 2 * np.arange(number), at, axis=0)
    return emit.op("Add", emit.op("Mul", at, 2), start)


def _every_second(emit: Emit, start: int, number: Count) -> gs.Tensor:
    """[1, number, 1]: start, start + 2, ..."""
    if isinstance(number, int):
        return emit.tensor((start + 2 * np.arange(number)).reshape(1, -1, 1))
    span = emit.op("Range", 0, emit.squeeze(number, 0), 1)
    return emit.unsqueeze(emit.op("Add", emit.op("Mul", span, 2), start), 0, 2)


def apply(emit: Emit, x: gs.Tensor, merge: Merge, size: gs.Tensor | None) -> tuple[gs.Tensor, gs.Tensor]:
    """(tokens [B, T', D], how many stand behind each [B, T', 1]) from tokens [B, T, D]."""
    going, kept = emit.rows(x, merge.source), emit.rows(x, merge.places)
    into = emit.op("Transpose", merge.into, perm=[0, 2, 1])
    pairs = emit.cast(emit.op("Equal", _numbers_of_b(emit, merge), into), FLOAT)  # [B, T', r]
    if size is None:
        weight = emit.op("Add", emit.sum(pairs, 2), np.float32(1))
        own: gs.Tensor = emit.op("Reciprocal", weight)
        share = emit.op("Mul", pairs, own)
    else:
        size_kept, size_gone = emit.rows(size, merge.places), emit.rows(size, merge.source)
        pairs = emit.op("Mul", pairs, emit.op("Transpose", size_gone, perm=[0, 2, 1]))
        weight = emit.op("Add", emit.sum(pairs, 2), size_kept)
        own, share = emit.op("Div", size_kept, weight), emit.op("Div", pairs, weight)
    return emit.op("Add", emit.op("Mul", kept, own), emit.op("MatMul", share, going)), weight


def _numbers_of_b(emit: Emit, merge: Merge) -> gs.Tensor:
    """[1, T', 1]: places in B of the tokens behind the stage; negative in front of B."""
    if isinstance(merge.left, int) and isinstance(merge.ahead, int):
        return emit.tensor((np.arange(merge.left) - merge.ahead).reshape(1, -1, 1))
    count = Counter(emit)
    span = emit.op("Range", 0, emit.squeeze(count.line(merge.left), 0), 1)
    return emit.unsqueeze(emit.op("Sub", span, count.line(merge.ahead)), 0, 2)


def destinations(emit: Emit, merge: Merge, zero: gs.Tensor) -> gs.Tensor:
    """The place behind the stage of each token before it, int64 [B, T, 1]."""
    count = Counter(emit)
    span = emit.op("Range", 0, emit.squeeze(count.line(merge.left), 0), 1)
    kept = emit.op("Add", zero, emit.unsqueeze(span, 0, 2))
    at = emit.join(merge.places, merge.source, axis=1)
    to = emit.join(kept, emit.op("Add", merge.into, count.line(merge.ahead)), axis=1)
    return emit.op("ScatterElements", to, at, to, axis=1)


def matrix(decisions: dict[str, Array], tokens: int, front: int, size: Array) -> tuple[Array, Array, Array]:
    """What a stage does, in numbers: (weights [B, T', T], places [B, T'], sizes [B, T']) for sizes [B, T]."""
    stay, gone, into = (decisions[k][..., 0].astype(int) for k in ("stay", "gone", "into"))
    start_a, start_b = starts(Stage(0, front))
    b = np.arange(start_b, tokens, 2)
    batch = len(stay)
    kept = np.concatenate(
        [np.tile(np.arange(front), (batch, 1)), start_a + 2 * stay, np.tile(b, (batch, 1))], 1
    )
    weights = np.zeros((batch, kept.shape[1], tokens))
    rows = np.arange(batch)[:, None]
    weights[rows, np.arange(kept.shape[1])[None], kept] = size[rows, kept]
    weights[rows, front + stay.shape[1] + into, start_a + 2 * gone] = size[rows, start_a + 2 * gone]
    sizes = weights.sum(-1)
    return weights / sizes[..., None], kept, sizes
