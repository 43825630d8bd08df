"""The claim: the original graph, run at the smaller size, its sizes computed while it runs.

The same graph at the full size equals the original (that is proved first), so that it is the original architecture;
at the smaller size it must equal the model in which all sizes are written down.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pruneopt.analysis.infer import Analysis
from pruneopt.arrays import Array, Feeds
from pruneopt.errors import PruneoptError
from pruneopt.model import Model
from pruneopt.passes.claims import Unchanged
from pruneopt.passes.context import Context
from pruneopt.passes.length.extent.ends import End
from pruneopt.passes.length.extent.settle import Settled
from pruneopt.passes.length.extent.writing import fit, framed, written
from pruneopt.passes.proof import prove


@dataclass(frozen=True)
class Elsewhere:
    """The claim that a model does what the original does at another size of its inputs."""

    analysis: Analysis
    settled: Settled
    ends: Mapping[End, int]
    feeds: Sequence[Feeds]
    context: Context

    def references(self) -> Iterator[tuple[Model, Feeds]]:
        """The original at the smaller size, for every observed input."""
        free = written(self.analysis, self.settled, computed=True)
        try:
            prove(free, Unchanged(self.analysis.model, self.feeds), self.context)
            free = free.copy()  # what ran above is known by its identity
            fit(free, self.analysis, self.settled)
            framed(free, self.ends, self.analysis, self.settled)
            session = self.context.session(free.copy(), optimize=False)
            for feeds in self.feeds:
                session.run(feeds)
        except PruneoptError as error:
            raise PruneoptError(f"length: the graph has no other size than its own: {error}") from None
        yield from ((free, feeds) for feeds in self.feeds)

    def count(self) -> int:
        """Number of dimensions that became smaller."""
        return len(self.ends)

    def kept(self, name: str, array: npt.NDArray[np.generic], run: int) -> Array | None:
        """Nothing is said of inner tensors."""
        return None
