"""Token merging and dropping by the published equations, one sample at a time, with loops."""

from __future__ import annotations

import numpy as np

from tests.passes.length.net import Array, Step, Tokens


def tome(removed: list[int], front: int) -> Step:
    """Bipartite soft matching (ToMe, section 3): A even, B odd, A's best partner in B, the r best pairs merge."""

    def step(layer: int, t: Tokens, keys: Array, p: Array) -> Tokens:
        r = removed[layer] if layer < len(removed) else 0
        metric = keys.mean(0)
        metric = metric / np.linalg.norm(metric, axis=-1, keepdims=True)
        even = [i for i in range(len(t.x)) if i % 2 == 0 and i >= front]
        odd = [i for i in range(len(t.x)) if i % 2 == 1 and i >= front]
        partner = {i: max(odd, key=lambda j: metric[i] @ metric[j]) for i in even}
        merging = sorted(even, key=lambda i: -(metric[i] @ metric[partner[i]]))[:r]
        groups = [[i] for i in [*range(front), *(i for i in even if i not in merging)]]
        groups += [[j, *(i for i in merging if partner[i] == j)] for j in odd]
        return merged(t, groups, t.size)

    return step


def evit(left: list[int | None], front: int, by_first: bool) -> Step:
    """Keep the most attended tokens, fuse the others by their attention (EViT, section 3)."""

    def step(layer: int, t: Tokens, keys: Array, p: Array) -> Tokens:
        count = left[layer]
        if count is None:
            return t
        score = p[:, 0].mean(0) if by_first else p.mean((0, 1))
        ranked = sorted(range(front, len(t.x)), key=lambda i: -score[i])
        kept = [*range(front), *sorted(ranked[: count - 1 - front])]
        rest = [i for i in range(len(t.x)) if i not in kept]
        fused = merged(t, [*([i] for i in kept), rest], score)
        fused.size = np.ones(len(fused.x))
        return fused

    return step


def skipping(left: dict[int, int], last: int, front: int, by_first: bool) -> Step:
    """Dropping at some layers (EViT); behind the last one dropped tokens are there again, as they were."""
    places: list[int | None] = []
    waiting: dict[int, Array] = {}

    def step(layer: int, t: Tokens, keys: Array, p: Array) -> Tokens:
        if layer == 0:
            places[:] = list(range(len(t.x)))
            waiting.clear()
        if layer in left:
            score = p[:, 0].mean(0) if by_first else p.mean((0, 1))
            ranked = sorted(range(front, len(t.x)), key=lambda i: -score[i])
            kept = [*range(front), *sorted(ranked[: left[layer] - 1 - front])]
            for i in set(range(len(t.x))) - set(kept):
                if (place := places[i]) is not None:  # not what was fused before
                    waiting[place] = t.x[i].copy()
            places[:] = [*(places[i] for i in kept), None]
            t = evit({layer: left[layer]}, front, by_first)(layer, t, keys, p)  # type: ignore[arg-type]
        if layer != last:
            return t
        whole = dict(waiting) | {p: x for p, x in zip(places, t.x, strict=True) if p is not None}
        x = np.array([whole[i] for i in range(len(whole))])
        return Tokens(x, np.ones(len(x)), np.zeros(len(x)), [[i] for i in range(len(x))])

    return step


def merged(t: Tokens, groups: list[list[int]], weight: Array) -> Tokens:
    """One token per group: the mean by weight."""
    x = np.array([np.average(t.x[g], axis=0, weights=weight[g] if len(g) > 1 else None) for g in groups])
    size = np.array([t.size[g].sum() for g in groups])
    bias = np.array([t.bias[max(g, key=lambda i: weight[i])] for g in groups])
    return Tokens(x, size, bias, [[m for i in g for m in t.members[i]] for g in groups])
