"""Makes single weights zero: no shape changes, and a kernel for the pattern has less to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import numpy as np

from pruneopt.analysis.infer import Analysis, analyse
from pruneopt.errors import PruneoptError, UsageError
from pruneopt.model import Model
from pruneopt.passes.base import Outcome
from pruneopt.passes.claims import Unchanged
from pruneopt.passes.context import Context
from pruneopt.passes.options import check_names, check_share
from pruneopt.passes.proof import prove
from pruneopt.passes.rivals import better
from pruneopt.passes.sparsity.allocation import measured, measured_harm
from pruneopt.passes.sparsity.layers import Layers, find_layers, shape
from pruneopt.passes.sparsity.methods import find_method
from pruneopt.passes.sparsity.patterns import Pattern, parse_pattern
from pruneopt.passes.sparsity.permutation import orders, reorder
from pruneopt.passes.sparsity.sequence import Change, Settings, Shares, applied, changed, look
from pruneopt.passes.sparsity.sites import blind_harm
from pruneopt.passes.sparsity.speed import Watch, planned
from pruneopt.passes.statistics.consumers import Consumer
from pruneopt.passes.statistics.damage import Yardstick, outputs
from pruneopt.passes.statistics.stream import hold_out, small_batches

PROBED = 0.7  # the share of zeros at which harm is measured where latency decides on the shares


@dataclass(frozen=True)
class Sparsify:
    """Set weights of matrix products and convolutions to zero, in a pattern.

    Attributes:
        sparsity: share of these weights that become zero; `n:m` patterns set it themselves, and where the
            allocation is measured less than that makes some weights sparse and leaves others.
        pattern: where zeros may stand: `unstructured`, blocks of outputs x inputs such as `16x1`, `2:4`, or `2:4x16`.
        method: `magnitude`, `ria`, `wanda`, `sparsegpt` or `admm`; by default `admm` with calibration data, else `ria`.
        allocation: `uniform`, or `measured`: more zeros where calibration data says that they do less harm; by default
            measured where there is data and the method refits.
        latency: share to keep of the latency, as measured with the kernels that `pruneopt tune` makes for `target`,
            instead of a share of zeros.
        target: of these kernels, as `pruneopt tune` takes it.
        only: glob pattern of weight, node or output names.
        samples: rows per layer to look at, at most; at least eight per feature.
        permute: put features into an order that suits an `n:m` pattern, where that is free.
    """

    sparsity: float | None = None
    pattern: str = "unstructured"
    method: str | None = None
    allocation: str | None = None
    latency: float | None = None
    target: str = "host"
    only: str = "*"
    samples: int = 65_536
    permute: bool = True

    def __post_init__(self) -> None:
        pattern = parse_pattern(self.pattern)
        check_share("sparsify", "latency", self.latency, whole=False)
        check_share("sparsify", "sparsity", self.sparsity, of="of zeros", whole=False)
        check_names("sparsify", "allocation", [self.allocation], ("uniform", "measured"))
        if self.latency is not None and self.sparsity is not None:
            raise UsageError("sparsify: give sparsity or latency; each says how many weights become zero")
        if self.sparsity is None and pattern.share is None and self.latency is None:
            raise UsageError(
                "sparsify: say how many weights become zero, as in sparsity=0.8 or --sparsity 0.8, or as many as make "
                "the model so fast with kernels for a target, as in latency=0.5 or --latency 0.5 --target host"
            )
        if pattern.share is not None and (self.sparsity or 0) > pattern.share:
            raise UsageError(
                f"sparsify: pattern {pattern} makes {pattern.share:.0%} of the weights zero at most"
            )
        if self.method is not None:
            find_method(self.method)

    def run(self, model: Model, context: Context) -> Outcome:
        """The model with zeros.

        Raises:
            UsageError: the method needs calibration data, and there is none.
            PruneoptError: there is no weight to make sparse.
        """
        name = self.method or ("admm" if context.calibration else "ria")
        settings = Settings(find_method(name), parse_pattern(self.pattern), self.samples)
        if settings.method.data and not context.calibration:
            raise UsageError(f"sparsify: method {name} looks at activations; give --calib, or choose ria")
        model, gained = self._reordered(model, settings, context)
        analysis = analyse(model, context.observation(model), context.keep)
        layers = find_layers(analysis, self.only, context.keep)
        if not layers.chosen:
            raise PruneoptError(f"no weight of this model can become sparse: {_reasons(layers.left)}")
        shares, said = self._shares(analysis, layers.chosen, settings, context)
        said = {"method": name, "pattern": str(settings.pattern), "data": bool(context.calibration)} | said
        if gained:
            said["reordered"] = gained
        if not context.calibration:
            context.progress(
                "no calibration data: weights are chosen without seeing what they are applied to"
            )

        def make(shares: Shares) -> Outcome:
            context.progress(f"sparsify {len(shares)} weights ({name}, {settings.pattern})")
            changes = list(changed(analysis, shares, settings, context))
            check(changes, shares, settings.pattern)
            return Outcome(applied(model, changes), said | _entry(changes, layers))

        made = make(shares)
        if self._has_rival(settings.pattern, said):
            uniform = dict.fromkeys(layers.chosen, self.sparsity or 0.0)
            names, harm = ("measured", "uniform"), partial(_moved, model)
            made = better(made, lambda: make(uniform), names, context, harm)
        context.same_tensors(made.model, model)
        return made

    def _has_rival(self, pattern: Pattern, said: Mapping[str, Any]) -> bool:
        """Whether shares were measured that nobody asked for, and equal ones are possible."""
        return self.allocation is None and "foreseen" in said and pattern.share is None

    def _reordered(self, model: Model, settings: Settings, context: Context) -> tuple[Model, float]:
        """The model with features in an order that suits an N:M pattern, proved; what scores are kept more."""
        if not self.permute or not settings.pattern.group:
            return model, 0.0
        analysis = analyse(model, context.observation(model), context.keep)
        layers = find_layers(analysis, self.only, context.keep).chosen
        scores = {c: s for c, s in look(model, layers, context) if c.groups == c.window == 1}
        found, gained = orders(analysis, scores, settings.pattern)
        if not found:
            return model, 0.0
        made = reorder(analysis, found)
        prove(made, Unchanged(model, context.feeds), context)
        context.same_tensors(made, model)
        return made, gained

    def _shares(
        self, analysis: Analysis, layers: Sequence[Consumer], settings: Settings, context: Context
    ) -> tuple[dict[Consumer, float], dict[str, Any]]:
        """The share of zeros of each layer, and what was measured to find it."""
        if self.latency is not None:
            return self._fast_enough(self.latency, analysis, layers, settings, context)
        most = settings.pattern.share
        share = self.sparsity or most or 0.0
        if not self._measures(share, settings, context):
            return dict.fromkeys(layers, most or share), {}
        found, foreseen = measured(analysis.model, layers, share, settings, context)
        return {layer: each for layer, each in found.items() if each > 0}, {"foreseen": foreseen}

    def _measures(self, share: float, settings: Settings, context: Context) -> bool:
        """Whether zeros are allocated by measured harm."""
        if self.allocation is not None:
            return self.allocation == "measured" and bool(context.calibration)
        return bool(context.calibration) and settings.method.refits and share != settings.pattern.share

    def _fast_enough(
        self,
        latency: float,
        analysis: Analysis,
        layers: Sequence[Consumer],
        settings: Settings,
        context: Context,
    ) -> tuple[dict[Consumer, float], dict[str, Any]]:
        kernels = context.backend.zeros(self.target, context.threads)
        watch = Watch(analysis, layers, settings.pattern, kernels, context)
        if context.calibration:
            share = settings.pattern.share or PROBED
            harm = measured_harm(analysis.model, layers, share, settings, context)
        else:
            harm = {c: blind_harm(c, settings.pattern) for c in layers}
        try:
            shares, rounds = planned(latency, harm, watch)
        except PruneoptError as error:
            least = error.details.get("least")
            reached = least.get("latency", 1.0) if isinstance(least, dict) else 1.0
            raise PruneoptError(
                f"zeros alone do not make this model so fast: with kernels for {settings.pattern} its latency "
                f"cannot be brought below {reached:.3f} of the input's here; a coarser pattern such as 16x1 is "
                "faster, and width{latency=...} before it leaves less to do",
                **error.details,
            ) from None
        return shares, {"latency": rounds}


def _moved(before: Model, outcome: Outcome, context: Context, most: float) -> Mapping[str, float]:
    """Damage at the outputs of every fifth batch, all of which layers were fitted on."""
    _, held = hold_out(small_batches(context))
    dense, found = (outputs(each, context, held) for each in (before, outcome.model))
    return {"none": Yardstick.of(before.graph, dense).damage(found)}


def check(changes: Iterable[tuple[Consumer, Change]], shares: Shares, pattern: Pattern) -> None:
    """Look at what is to be stored: zeros in the pattern, as many as were asked for.

    Raises:
        PruneoptError: a method broke its word.
    """
    for consumer, change in changes:
        for matrix in consumer.as_matrix(change.weight):
            slack = pattern.span / matrix.shape[1]  # rows round, the last group may be too short to give
            enough = pattern.zero_units(matrix) >= shares[consumer] - slack
            if not (pattern.holds(matrix) and enough and np.isfinite(matrix).all()):
                raise PruneoptError(
                    f"the zeros of '{consumer.use.constant.name}' are not as pattern {pattern} at "
                    f"{shares[consumer]:.0%} has them, so nothing was written; please report this method"
                )


def _entry(changes: Sequence[tuple[Consumer, Change]], layers: Layers) -> dict[str, Any]:
    """What the report says of each weight, and of all that could become sparse together."""
    zeros = sum(prod(shape(c)) * change.sparsity for c, change in changes)
    return {
        "sparsity": zeros / sum(prod(shape(c)) for c in layers.chosen),
        "layers": [
            {
                "name": c.use.constant.name,
                "shape": list(shape(c)),
                "sparsity": change.sparsity,
                "error": change.error,
            }
            for c, change in changes
        ],
        "left": [{"name": name, "why": why} for name, why in layers.left.items()],
    }


def _reasons(left: Mapping[str, str]) -> str:
    found = [f"'{name}': {why}" for name, why in left.items()]
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return "; ".join(found[:3]) + more if found else "it has no matrix product or convolution by a constant"
