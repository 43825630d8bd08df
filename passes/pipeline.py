"""Passes in order. Every claim is proved before the next pass runs: a model that fails is never seen by anyone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pruneopt.model import Model
from pruneopt.passes.base import Outcome, Pass
from pruneopt.passes.claims import Claim
from pruneopt.passes.context import Context
from pruneopt.passes.proof import prove


@dataclass(frozen=True)
class Pipeline:
    """Passes in order; a pass itself."""

    passes: Sequence[Pass]

    def run(self, model: Model, context: Context | None = None, *, calib: Any = None) -> Outcome:
        """Run all; the entry is the list of theirs.

        Without a context, ONNX Runtime is the backend, `calib` is what `pruneopt.prune` takes, and the model
        is simplified first: what is computed from fixed sizes, as a softmax's scale, must not change with them.
        """
        if context is None:
            from pruneopt.api import make_context  # the default runtime is the interface's choice, not ours
            from pruneopt.passes.simplify import Simplify

            context = make_context(model, calib)
            return Pipeline(_headed(self.passes, Simplify())).run(model, context)
        context.original = context.original or model
        entries = []
        for each in self.passes:
            context.progress(type(each).__name__.lower())
            before = context.forwards
            outcome = each.run(model, context)
            entry = {"pass": type(each).__name__.lower(), "options": _options(each), **outcome.entry}
            if outcome.claim is not None:
                context.progress("verify")
                proof = prove(outcome.model, outcome.claim, context)
                entry["equivalence"] = vars(proof)
            if context.forwards > before:
                entry["forwards"] = round(context.forwards - before, 2)
            entries.append(entry)
            if outcome.model is not model:
                context.claim = outcome.claim
                context.aim = _aim(model, outcome.claim, context)
            model = outcome.model
        return Outcome(model, {"passes": entries})


def _options(each: Pass) -> dict[str, Any]:
    return {k: v for k, v in vars(each).items() if v is not None}


def _headed(passes: Sequence[Pass], first: Pass) -> Sequence[Pass]:
    """The passes with `first` in front, unless they begin with one of its kind."""
    return passes if passes and isinstance(passes[0], type(first)) else (first, *passes)


def _aim(before: Model, claim: Claim | None, context: Context) -> Model | None:
    """What repairs aim at behind a pass; an exact one may have changed what tensors mean, and ends it."""
    if claim is None:
        return context.aim
    return (context.aim or before) if claim.count() else None
