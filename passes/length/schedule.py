"""Which sites become stages, and what share of the tokens each leaves."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pruneopt.analysis.cuts import Site
from pruneopt.errors import UsageError
from pruneopt.passes.length.counting import WHOLE, Counter, Stage, merged, picked

FEW = 3  # stages where dropping is not gradual: behind a quarter, a half and three quarters of the layers


def stages_of(sites: Sequence[Site], method: str, asked: str) -> list[Site]:
    """The sites that become stages.

    Args:
        sites: of one token axis, in order.
        method: merging goes on behind every attention, dropping in three stages (DynamicViT's 3, 6, 9 of 12).
        asked: their numbers from 0, as `3/6/9`; empty for the default.

    Raises:
        UsageError: a number is not that of a site.
    """
    if asked:
        numbers = [int(n) for n in re.findall(r"\d+", asked)]
        if not numbers or max(numbers) >= len(sites):
            raise UsageError(
                f"length: stages={asked} does not name attention layers from 0 to {len(sites) - 1}, as 3/6/9"
            )
        return [sites[n] for n in sorted(set(numbers))]
    if method == "tome" or len(sites) <= 1:
        return list(sites)
    at = dict.fromkeys(round(len(sites) * (i + 1) / (FEW + 1)) for i in range(FEW))
    return [sites[n] for n in at if n < len(sites)]


def shares(
    count: int, method: str, keep: float | None, left: float | None, falling: bool = False
) -> list[float]:
    """Share of the first tokens that each of `count` stages leaves.

    `keep` of those before it at each stage; or `left` at the end: in equal steps when merging (a constant r),
    in steps that fall to nothing at the last stage (ToMe's decreasing schedule), in equal shares when dropping.
    """
    if keep is not None:
        return [keep ** (i + 1) for i in range(count)]
    end = 1.0 if left is None else left
    if method != "tome":
        return [end ** ((i + 1) / count) for i in range(count)]
    steps = [float(count - i) if falling else 1.0 for i in range(count)]
    return [1 - (1 - end) * sum(steps[: i + 1]) / sum(steps) for i in range(count)]


def schedule(share: Sequence[float], front: int) -> list[Stage]:
    """Stages from shares."""
    return [Stage(max(1, round(s * WHOLE)), front) for s in share]


def removing(count: int, tokens: int, each: int, front: int) -> list[Stage]:
    """Stages that remove `each` tokens of `tokens`, a fixed number."""
    rest = max(1, tokens - front)
    return [Stage(max(1, (rest - each * (i + 1)) * WHOLE // rest), front) for i in range(count)]


def lengths(stages: Sequence[Stage], method: str, tokens: int) -> list[int]:
    """Tokens behind each stage when there are `tokens` before the first."""
    count, now, found = Counter(), tokens, []
    for stage in stages:
        if method == "tome":
            now -= int(merged(count, stage, now, tokens))
        elif method == "topk":
            now = int(picked(count, stage, now, tokens)) + 1
        else:
            now = min(now, int(stage.target(count, tokens)))
        found.append(now)
    return found
