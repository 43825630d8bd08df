"""Without a budget: as much as is free, measured at the outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import Any

import numpy as np

from pruneopt.arrays import Array
from pruneopt.errors import PruneoptError, UsageError
from pruneopt.model import Model
from pruneopt.passes.base import Outcome
from pruneopt.passes.context import Context
from pruneopt.passes.joint import Joint
from pruneopt.passes.planning.costs import shares_of
from pruneopt.passes.repair import Repair
from pruneopt.passes.rewriting.masked import Masked
from pruneopt.passes.statistics.damage import Outputs, outputs
from pruneopt.passes.statistics.stream import hold_out, small_batches
from pruneopt.passes.width import Width

STEPS = 6  # shares that are tried, at most
CLOSE = 1 / 32  # the answer is within that of the best share
NEAR = 0.85  # of the tolerance; what comes as near as that is not bettered
AIM = 0.95  # of the tolerance is what a step hopes for
SURE = 0.95  # how likely other inputs, as many as were measured on, move no farther


@dataclass(frozen=True)
class Tolerance:
    """The smallest model whose outputs stay within `error` of the original's, by a search over MACs.

    Attributes:
        error: largest relative L2 distance of any output, on calibration data or else synthetic inputs.
        axes: what may become smaller, of `depth`, `length`, `width` joined by `+`; others than width need calibration
            data.
    """

    error: float = 0.01
    axes: str = "width"

    def __post_init__(self) -> None:
        if not 0 < self.error < 1:
            raise UsageError(f"tolerance {self.error:g} is not in (0, 1); it is the output distance to allow")
        Joint(macs=1.0, axes=self.axes)  # says what is wrong with them

    def run(self, model: Model, context: Context) -> Outcome:
        """The smallest outcome that is within the tolerance, or the model as it is."""
        own = shares_of(model, context)["macs"]
        best = Outcome(model, {"macs": own})
        search = _Search(self.error, own / 2, high=own)
        dense: list[Outputs] = []
        while search.goes_on():
            found = None
            try:
                outcome, mended = self._smaller(search.at, model, context)
                dense = dense or [self._made(model, context)]
                found = _distance(dense[0], self._made(mended, context))
            except PruneoptError as error:
                if not {"least", "refused"} & set(
                    error.details
                ):  # only a budget that cannot be met is an answer
                    raise
            if found is not None and found <= self.error:
                best = replace(outcome, entry=outcome.entry | {"macs": search.at})
            search.take(found, {} if found is None else outcome.entry)
        context.claim = context.aim = None  # those of the last one that was tried
        return best

    def _smaller(self, share: float, model: Model, context: Context) -> tuple[Outcome, Model]:
        """A model of this share of the multiply-accumulates, and what a repair will make of it."""
        if self.axes == "width":
            outcome = Width(macs=share, against="none").run(model, context)
            return outcome, self._mended(outcome, context)
        outcome = Joint(macs=share, axes=self.axes, tries=1).run(model, context)
        return outcome, outcome.model

    def _mended(self, outcome: Outcome, context: Context) -> Model:
        """As the repair that follows would leave it, at least as good."""
        if not context.calibration or not isinstance(outcome.claim, Masked) or not outcome.claim.masks:
            return outcome.model
        return Repair(ways="self").mend(outcome.model, outcome.claim, context, again=True).model

    def _made(self, model: Model, context: Context) -> Outputs:
        """Outputs on batches that nothing was fitted to, as far as there are some."""
        _, held = hold_out(small_batches(context))
        return outputs(model, context, held or list(context.feeds))


@dataclass
class _Search:
    """Shares to try, smaller ones while the outputs stay within the tolerance.

    The predicted trade-off, scaled to what was measured last, says which share comes next; halves where it is not
    known; some of the interval goes with every step.
    """

    error: float
    at: float = 0.5
    low: float = 0.0
    high: float = 1.0
    _left: int = field(default=STEPS)

    def goes_on(self) -> bool:
        """Whether another share is worth trying."""
        return self._left > 0 and self.high - self.low > CLOSE

    def take(self, distance: float | None, entry: Mapping[str, Any]) -> None:
        """What came of the current share: a distance, None where it cannot be reached."""
        fits = distance is not None and distance <= self.error
        self.low, self.high = (self.low, self.at) if fits else (self.at, self.high)
        self._left = 0 if fits and (distance or 0.0) >= NEAR * self.error else self._left - 1
        wanted = None if distance is None else self._predicted(distance, entry.get("trade_off", ()))
        width = self.high - self.low
        edge = min(max(CLOSE, width / 8), width / 2)
        middle = (self.low + self.high) / 2
        self.at = middle if wanted is None else float(np.clip(wanted, self.low + edge, self.high - edge))

    def _predicted(self, distance: float, trade_off: Any) -> float | None:
        """The share whose damage is as much less or more as the squared distance should be."""
        known = [(p["macs"], p["damage"]) for p in trade_off if p["damage"] > 0]
        if len(known) < 2 or distance <= 0:
            return None
        shares, damage = np.array(known).T
        order = np.argsort(shares)
        here = np.interp(self.at, shares[order], np.log(damage[order]))
        return float(np.interp(here + 2 * np.log(AIM * self.error / distance), np.log(damage), shares))


def _distance(dense: Outputs, found: Outputs) -> float:
    """The relative L2 distance of an output, at most, that other inputs stay within; the largest of all outputs.

    An upper bound of a prediction: what was measured on n samples, and will be on n others, differs by the errors of
    both. Samples of one batch may be alike; then batches are what is counted.
    """
    worst = 0.0 if any(dense) else float("inf")  # of outputs that are no numbers nothing is known
    for name in dense[0] if dense else ():
        pairs = [_sums(a[name], b[name]) for a, b in zip(dense, found, strict=True)]
        total = sum(float(whole.sum()) for _, whole in pairs) or float(np.finfo(np.float64).tiny)
        share = sum(float(moved.sum()) for moved, _ in pairs) / total
        rest = [(moved - share * whole) / total for moved, whole in pairs]
        error = max(_error(np.concatenate(rest)), _error(np.array([each.sum() for each in rest])))
        worst = max(worst, float(np.sqrt(share + 2**0.5 * error)))
    return worst


def _error(rest: Array) -> float:
    """What a sum of independent parts is below, `SURE`ly, from what is left of each when the mean is taken off."""
    free = len(rest) - 1
    return _student(free) * float(np.square(rest).sum() * len(rest) / free) ** 0.5 if free else 0.0


def _student(free: int) -> float:
    """Student's t at SURE: the normal quantile and its expansion for few degrees of freedom (Fisher, Cornish)."""
    z = NormalDist().inv_cdf(SURE)
    return z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)


def _sums(a: Array, b: Array) -> tuple[Array, Array]:
    """Per sample the squared distance and the squared norm, shape [samples] each."""
    a, b = (np.nan_to_num(x.astype(np.float64).reshape(len(x) if x.ndim else 1, -1)) for x in (a, b))
    return np.square(a - b).sum(1), np.square(a).sum(1)
