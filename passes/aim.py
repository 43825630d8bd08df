"""What a repair works towards: the model before the first approximation, as far as its tensors mean the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pruneopt.arrays import Array, Feeds
from pruneopt.model import Model, makers
from pruneopt.passes.context import Context
from pruneopt.passes.distance import distance
from pruneopt.passes.rewriting.masked import Masked
from pruneopt.passes.statistics.stream import Stream

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
        made = makers(turned.graph)
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


class Targets:
    """What tensors are to become, batch by batch.

    Those of the whole model where they mean the same; others (of fewer tokens, or in another basis) as they were in
    the model that widths were removed from. Tensors that are asked for together come from one of the two.
    """

    def __init__(self, aim: Aim, batches: Sequence[Feeds], groups: Iterable[Sequence[str]]) -> None:
        asked = [list(group) for group in groups]
        self._there = aim.targets(name for group in asked for name in group)
        ours, others = ([g for g in asked if self._knows(g) is known] for known in (True, False))
        self._whole = Stream(aim.model, aim.context, batches, [name for group in ours for name in group])
        self._near: Stream | None = None
        if others:
            later = [name for group in others for name in group]
            self._near = Stream(aim.claim.analysis.model, aim.context, batches, later)

    def reach(self, names: Sequence[str]) -> Iterator[list[Array]]:
        """The values of tensors that were announced together, batch by batch; see `Stream.reach`."""
        return self._stream(names).reach(*names)

    def done(self, names: Sequence[str]) -> None:
        """These tensors are not asked for again on behalf of one of those who announced them."""
        self._stream(names).later.subtract(names)

    def _knows(self, names: Sequence[str]) -> bool:
        return self._there.issuperset(names)

    def _stream(self, names: Sequence[str]) -> Stream:
        return self._near if self._near is not None and not self._knows(names) else self._whole
