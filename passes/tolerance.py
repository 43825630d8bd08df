"""Without a budget: as much as is free, measured at the outputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from pruneopt.errors import PruneoptError, UsageError
from pruneopt.model import Model
from pruneopt.passes.base import Context, Outcome
from pruneopt.passes.repair import Repair
from pruneopt.passes.rewriting.masked import Masked
from pruneopt.passes.statistics.stream import hold_out, split_batches
from pruneopt.passes.verify import fidelity
from pruneopt.passes.width import Width

STEPS = 5  # halvings of the interval of shares: the answer is within 1/32 of the best


@dataclass(frozen=True)
class Tolerance:
    """The narrowest model whose outputs stay within `error` of the original's, by bisection over MACs.

    Attributes:
        error: largest relative L2 distance of any output, on calibration data or else synthetic inputs.
    """

    error: float = 0.01

    def __post_init__(self) -> None:
        if not 0 < self.error < 1:
            raise UsageError(f"tolerance {self.error:g} is not in (0, 1); it is the output distance to allow")

    def run(self, model: Model, context: Context) -> Outcome:
        """The smallest outcome of `Width` that is within the tolerance, or the model as it is."""
        best = Outcome(model, {"macs": 1.0})
        low, high = 0.0, 1.0
        for share in _bisection(low, high):
            try:
                outcome = Width(macs=share.at, against="none").run(model, context)
                share.fits = self._distance(self._mended(outcome, context), model, context) <= self.error
            except PruneoptError as error:
                if "least" not in error.details:  # only a budget that cannot be met is an answer
                    raise
                share.fits = False
            if share.fits:
                best = replace(outcome, entry=outcome.entry | {"macs": share.at})
        return best

    def _mended(self, outcome: Outcome, context: Context) -> Model:
        """As the repair that follows would leave it, at least as good."""
        if not context.calibration or not isinstance(outcome.claim, Masked) or not outcome.claim.masks:
            return outcome.model
        return Repair(ways="self").mend(outcome.model, outcome.claim, context).model

    def _distance(self, model: Model, original: Model, context: Context) -> float:
        """On batches that nothing was fitted to, as far as there are some."""
        _, held = hold_out(split_batches(context.calibration))
        batches = held or list(context.feeds)
        moved = fidelity(context, original, model, batches)
        return max((m["rel_l2"] for m in moved.values()), default=0.0)


@dataclass
class _Share:
    at: float
    fits: bool = False


def _bisection(low: float, high: float) -> Iterator[_Share]:
    """Shares to try; the caller says of each whether it fits, and smaller ones are wanted."""
    for _ in range(STEPS):
        share = _Share((low + high) / 2)
        yield share
        low, high = (low, share.at) if share.fits else (share.at, high)
