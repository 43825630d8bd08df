"""Chains of residual branches, and what repeats in them: attention and FFN, attention and FFN, ... are layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pruneopt.analysis.joins import Join


@dataclass(frozen=True)
class Leaf:
    """One join with what follows it up to the exit."""

    join: Join
    exit: str


def chains(leaves: Sequence[Leaf]) -> list[list[Leaf]]:
    """Leaves in sequences in which each starts where the one before it ends."""
    found: dict[str, list[Leaf]] = {}  # by the exit of its last leaf
    for leaf in leaves:
        chain = found.pop(leaf.join.entry, [])
        found[leaf.exit] = [*chain, leaf]
    return list(found.values())


def repeated(chain: Sequence[Leaf], look: Callable[[Leaf], Any]) -> Iterator[Sequence[Leaf]]:
    """Cuts a chain into its repeated parts; those that `look` the same are alike."""
    looks = [look(leaf) for leaf in chain]
    at = 0
    while at < len(chain):
        period, times = _period(looks[at:])
        for i in range(at, at + period * times, period):
            yield chain[i : i + period]
        at += period * times


def _period(looks: Sequence[Any]) -> tuple[int, int]:
    """(period, times) of the repetition at the start that covers most; of equals the shortest period."""
    best = (1, 1)
    for period in range(1, len(looks) // 2 + 1):
        run = next((i for i in range(period, len(looks)) if looks[i] != looks[i - period]), len(looks))
        times = run // period
        if times > 1 and times * period > best[0] * best[1]:
            best = (period, times)
    return best
