"""Token dropping by attention: the tokens that are attended to most stay, the rest become one token.

At inference, DynamicViT (Rao et al., NeurIPS 2021) keeps a constant share at a few stages; without its
trained predictor the score is the attention of the class token, as in EViT (Liang et al., ICLR 2022), or
the mean attention of all queries where no class token is read. The rest is fused to its mean weighted by
that score. Padding has a score of zero, so that it stays last of all and weighs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.arrays import Array
from pruneopt.passes.length.counting import Count, Counter, Stage, picked
from pruneopt.passes.length.emit import Emit

ALWAYS = 1e6  # the score of tokens at the front


@dataclass(frozen=True, eq=False)
class Pick:
    """A picking stage in the graph; places are int64 [B, number, 1].

    Attributes:
        kept: places that stay, ascending, K of them.
        weights: share of each token in the fused one, [B, T, 1].
        places: `kept`, and the place of the most attended one of those that are fused.
        count: K.
    """

    kept: gs.Tensor
    weights: gs.Tensor
    places: gs.Tensor
    count: Count

    @property
    def decisions(self) -> dict[str, str]:
        """Names of the tensors that say what stays."""
        return {"kept": self.kept.name, "weights": self.weights.name, "places": self.places.name}


def decide(emit: Emit, score: gs.Tensor, stage: Stage, tokens: Count, first: Count) -> Pick:
    """What stays, by a score [B, T, 1] that is not negative."""
    count = Counter(emit)
    keep = picked(count, stage, tokens, first)
    ranked = score
    if stage.front:
        always = emit.op(
            "Expand", np.full((1, 1, 1), ALWAYS), emit.join(emit.size(score, 0), [stage.front, 1])
        )
        ranked = emit.join(always, emit.slice(score, 1, [stage.front]), axis=1)
    kept = emit.ascending(emit.top(ranked, count.line(keep), 1)[1], count.line(keep))
    nothing = emit.op("Expand", np.zeros((1, 1, 1)), emit.op("Shape", kept))
    rest = emit.op("ScatterElements", score, kept, nothing, axis=1)
    weights = emit.op("Div", rest, emit.op("Max", emit.sum(rest, 1), np.float32(1e-20)))
    raised = emit.op("ScatterElements", emit.op("Add", score, np.float32(1)), kept, nothing, axis=1)
    chief = emit.op("ArgMax", raised, axis=1, keepdims=1)
    return Pick(kept, weights, emit.join(kept, chief, axis=1), keep)


def apply(emit: Emit, x: gs.Tensor, pick: Pick) -> gs.Tensor:
    """Tokens [B, K + 1, D] from tokens [B, T, D]: those that stay, and the rest as one."""
    fused = emit.op("MatMul", emit.op("Transpose", pick.weights, perm=[0, 2, 1]), x)
    return emit.join(emit.rows(x, pick.kept), fused, axis=1)


def destinations(emit: Emit, pick: Pick) -> gs.Tensor:
    """The place behind the stage of each token before it, int64 [B, T, 1]."""
    last = Counter(emit).line(pick.count)
    fused = emit.op("Expand", emit.unsqueeze(last, 0, 2), emit.op("Shape", pick.weights))
    span = emit.op("Range", 0, emit.squeeze(last, 0), 1)
    to = emit.op("Expand", emit.unsqueeze(span, 0, 2), emit.op("Shape", pick.kept))
    return emit.op("ScatterElements", fused, pick.kept, to, axis=1)


def matrix(decisions: dict[str, Array], tokens: int) -> tuple[Array, Array]:
    """What a stage does, in numbers: (weights [B, K + 1, T], places [B, K + 1])."""
    kept, shares = decisions["kept"][..., 0].astype(int), decisions["weights"][..., 0]
    batch, count = kept.shape
    raised = shares + 1.0
    np.put_along_axis(raised, kept, 0, axis=1)
    chief = decisions["places"][:, -1].astype(int) if "places" in decisions else raised.argmax(1)[:, None]
    weights = np.zeros((batch, count + 1, tokens))
    weights[np.arange(batch)[:, None], np.arange(count)[None], kept] = 1
    weights[:, count] = shares
    return weights, np.concatenate([kept, chief], 1)


def attention_received(emit: Emit, probabilities: gs.Tensor, heads: int | None, by_first: bool) -> gs.Tensor:
    """[B, T, 1]: what each token receives, the mean over heads of the first query or over all queries.

    Args:
        emit: where nodes go.
        probabilities: [B, h, T, T], [(B h), T, T] or [B, T, T].
        by_first: of the first query.
        heads: of three dimensions, the heads that the first one holds besides the batch; 0 for none, None for four.
    """
    queries = 2 if heads is None else 1
    if by_first:
        row = emit.slice(probabilities, queries, [0], [1])
    else:
        row = emit.unsqueeze(emit.mean(probabilities, queries), queries)
    if heads:
        row = emit.unsqueeze(emit.op("Reshape", row, [-1, heads, 0]), 2)
    mean = emit.mean(row, *((1, 2) if heads is None or heads else (1,)))
    return emit.unsqueeze(mean, 2)
