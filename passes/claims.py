"""What a rewrite claims: how the input model, masked, must equal the output. `passes.proof` holds it to that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from pruneopt.arrays import Array, Feeds
from pruneopt.model import Model


class Claim(Protocol):
    """What a rewrite claims: that masked inputs give equal outputs."""

    def references(self) -> Iterator[tuple[Model, Feeds]]:
        """Masked originals, each with the feeds it holds for."""

    def count(self) -> int:
        """Number of axes that were masked."""

    def kept(self, name: str, array: Array, run: int) -> Array | None:
        """What is left of tensor `name` of reference number `run`; None where the claim says nothing of it."""


@dataclass(frozen=True)
class Unchanged:
    """The claim that a rewrite is exact: the model before it, as it was."""

    model: Model
    feeds: Sequence[Feeds]

    def references(self) -> Iterator[tuple[Model, Feeds]]:
        """The model before, for each input."""
        for feeds in self.feeds:
            yield self.model, feeds

    def count(self) -> int:
        """Nothing is masked."""
        return 0

    def kept(self, name: str, array: Array, run: int) -> Array | None:
        """All of it: what keeps its name is what it was, or no decision may depend on it."""
        return array
