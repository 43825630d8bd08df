"""Changes no shape: refits what is left after a removal, layer by layer, from calibration data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf

import onnx_graphsurgeon as gs

from pruneopt.analysis.infer import analyse
from pruneopt.analysis.masks import mask_of
from pruneopt.errors import UsageError
from pruneopt.model import Model, makers
from pruneopt.passes.aim import aim_of
from pruneopt.passes.base import Outcome
from pruneopt.passes.context import Context
from pruneopt.passes.rewriting.masked import Masked
from pruneopt.passes.rewriting.shrink import compress
from pruneopt.passes.rewriting.weights import set_bias, set_weight
from pruneopt.passes.sequence import Settings, refit_all
from pruneopt.passes.statistics.consumers import Consumer
from pruneopt.passes.statistics.damage import Yardstick, outputs
from pruneopt.passes.statistics.leastsquares import Refit
from pruneopt.passes.statistics.stream import hold_out, small_batches

KEPT = 1 << 28  # bytes of new weights, of a repaired model that waits to be asked for again
# In which ways are tried: `stream` picks, layer by layer, what `self` does.
ORDER = ("stream", "self", "bias")
ENOUGH = 0.5  # of the damage without a repair: a way that leaves no more is not called into question


@dataclass(frozen=True)
class Repair:
    """Refit every consumer of a pruned axis in closed form, and keep the best of the ways on held-out data.

    The ways are: nothing; least squares towards the residual stream of the original, the model before blocks and tokens
    went (`passes.aim`); where that does not halve the damage, least squares towards what each layer would have made of
    its whole input; where neither is better than nothing, biases that make up for the mean of what went.

    Attributes:
        ridge: pull towards the original weights, as a share of each feature's variance.
        conv_ridge: the same for convolutions, as a share of the mean variance.
        samples: rows per layer to fit on, at most; at least eight per feature.
        ways: which to try, of `bias`, `self` and `stream`, joined by `+`.
    """

    ridge: float = 0.05
    conv_ridge: float = 1e-3
    samples: int = 20_000
    ways: str = "bias+self+stream"

    def __post_init__(self) -> None:
        for name in ("ridge", "conv_ridge"):
            if not getattr(self, name) > 0:
                raise UsageError(f"repair: {name}={getattr(self, name):g} is not positive")
        if unknown := set(self.ways.split("+")) - set(ORDER):
            raise UsageError(f"repair: there is no way '{min(unknown)}'; choose from bias, self, stream")

    def run(self, model: Model, context: Context) -> Outcome:
        """The best repaired model, or the model as it is where there is nothing to repair or no data."""
        claim = context.claim
        if claim is None or not claim.count():
            return Outcome(model, {"way": "none", "why": "nothing was removed"})
        if not context.calibration:
            return Outcome(model, {"way": "none", "why": "there is no calibration data"})
        if not isinstance(claim, Masked):  # blocks or tokens went: what is left is as wide as it was
            claim = Masked(analyse(model, context.observation(model), context.keep), {})
        if claim.moves():  # the masked original holds for one size only
            return Outcome(model, {"way": "none", "why": "a removed width is a factor of a dynamic size"})
        return self.mend(model, claim, context)

    def mend(
        self, model: Model, claim: Masked, context: Context, again: bool = False, most: float = inf
    ) -> Outcome:
        """The best repaired model, for a `model` that keeps what `claim` says.

        `again`: it will be asked for again. What does more than `most` damage is left as it is.
        """
        batches = small_batches(context)
        _, held = hold_out(batches)
        aim = aim_of(claim, context)
        yardstick = Yardstick.of(aim.model.graph, outputs(aim.model, context, held))
        best, made = "none", model
        distances = {best: yardstick.damage(outputs(model, context, held))}
        ways = self.ways.split("+") if distances[best] <= most else []
        for way in sorted(ways, key=ORDER.index):
            if distances[best] <= ENOUGH * distances["none"] and best != "none":
                break
            if (
                way == "bias" and best != "none"
            ):  # least squares did better than nothing: they move biases, too
                continue
            if way != "stream" and not claim.masks:  # each layer still has its whole input
                continue
            context.progress(f"repair ({way})")
            settings = Settings(way, self.ridge, self.conv_ridge, self.samples)
            mended = claim.repaired.pop(settings, None) or apply(
                model, claim, refit_all(claim, context, batches, settings, aim)
            )
            if again and _new_bytes(mended, model) <= KEPT:
                claim.repaired[settings] = mended
            distances[way] = yardstick.damage(outputs(mended, context, held))
            if distances[way] < distances[best]:
                best, made = way, mended
        return Outcome(made, {"way": best, "distances": distances, "scores": sorted(yardstick.scores)})


def _new_bytes(model: Model, old: Model) -> int:
    """Bytes of the constants that `model` does not share with `old`."""
    shared = {id(constant._values) for constant in _constants(old)}
    return sum(int(c._values.nbytes) for c in _constants(model) if id(c._values) not in shared)


def _constants(model: Model) -> list[gs.Constant]:
    return [t for t in model.graph.tensors().values() if isinstance(t, gs.Constant)]


def apply(model: Model, claim: Masked, refits: Iterable[tuple[Consumer, Refit]]) -> Model:
    """A copy of the pruned `model` with new weights, which come at full size and are cut by the claim's masks."""
    made = model.copy()
    nodes = makers(made.graph)
    for consumer, refit in refits:
        node = nodes[consumer.name]
        keeps = [mask_of(axis, claim.masks) for axis in consumer.use.axes]
        set_weight(made, node, compress(consumer.stored(refit.weight), keeps))
        set_bias(made, node, refit.bias[mask_of(consumer.output_axis, claim.masks)])
    return made
