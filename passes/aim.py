"""What a repair works towards: the model before the first approximation, as far as its tensors mean the same."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from pruneopt.model import Model
from pruneopt.passes.base import Context
from pruneopt.passes.proof import distance
from pruneopt.passes.rewriting.masked import Masked

ALIKE = 1e-3  # relative: two bases of a tensor differ by far more, rounding by far less


@dataclass(frozen=True)
class Aim:
    """Targets for the tensors of a model that was turned, shortened or cut.

    Attributes:
        model: whose tensors are the targets.
        start: the model before widths were removed, in the basis that it came in.
        claim: of the pass that removed them.
        context: of the run.
    """

    model: Model
    start: Model
    claim: Masked
    context: Context

    @property
    def is_other(self) -> bool:
        """Whether something went before widths did, so that targets come from a model of another graph."""
        return self.model is not self.start

    def targets(self, names: Iterable[str]) -> set[str]:
        """Those of the names that are in both models, of one size, and in the basis that they had at first."""
        wanted = set(names)
        if not self.is_other:
            return wanted
        whole, cut = (self.context.observation(m).shapes for m in (self.model, self.start))
        found = {name for name in wanted if name in whole and whole[name] == cut.get(name)}
        turned = self.claim.analysis.model
        return found if turned is self.start else self._unturned(turned, sorted(found))

    def _unturned(self, turned: Model, names: list[str]) -> set[str]:
        made = {t.name for node in turned.graph.nodes for t in node.outputs}
        names = [name for name in names if name in made]
        if not names:
            return set()
        feeds = self.context.feeds[0]
        before, after = (
            self.context.session(m, names, optimize=False).run(feeds) for m in (self.start, turned)
        )
        return {n for n in names if np.all(distance(before[n], after[n]) <= ALIKE)}


def aim_of(claim: Masked, context: Context) -> Aim:
    """The model that the run began with, as long as nothing but blocks, tokens and widths went since."""
    turned = claim.analysis.model
    start = claim.start or turned
    if context.aim is None or context.aim is start:  # then the turned one does as well, in its own basis
        return Aim(turned, turned, claim, context)
    return Aim(context.aim, start, claim, context)
