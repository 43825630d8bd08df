"""Applies one pattern in the notation of `analysis.notation` to one node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pruneopt.analysis.axes import Axis, times
from pruneopt.analysis.notation import Dim, parse

if TYPE_CHECKING:
    from pruneopt.analysis.op import Axes, Op


class Relation:
    """One application of a pattern to a node."""

    def __init__(self, op: Op, text: str, sizes: dict[str, int], why: str, zeros: Mapping[int, int]) -> None:
        self.op = op
        self.pattern = parse(text)
        self.sizes = sizes
        self.zeros = zeros
        self.why = why or f"its statistics run over the axis ({text})"
        self.names: dict[str, Axis] = {}
        self.rest: dict[str, list[Axes]] = {"...": [], "*": []}
        self.window: Axes = []

    def assert_all(self, macs: bool) -> dict[str, Axis]:
        terms = [(i, t, self.op.input(i)) for i, t in enumerate(self.pattern.inputs)]
        outs = [
            (-1 - i, t, o)
            for i, (t, o) in enumerate(zip(self.pattern.outputs, self.op.outputs, strict=False))
        ]
        located = [
            (slot, *found)
            for slot, term, axes in terms + outs
            if axes is not None
            for found in self._align(term, axes, slot)
        ]
        for _, _, dim, axis in located:
            if len(dim.factors) == 1 and not dim.factors[0].isdigit():
                self._single(dim.factors[0], axis)
        for _, _, dim, axis in located:
            if len(dim.factors) > 1 or dim.factors[0].isdigit():
                whole = self.op.product(self._factors(dim, axis))
                if whole.size == axis.size or set(axis.size) != {1}:  # else a broadcast
                    self.op.equal(whole, axis)
        if self.rest["..."]:
            self.op.broadcast(self.rest["..."])
        for axes in self.rest["*"]:
            self.op.freeze(axes, "positions are mixed by a window")
        self._mark(located)
        if macs:
            outer = self.rest["..."][-1] if self.rest["..."] else []  # the output's, already broadcast
            self.op.count_macs(*self.names.values(), *outer, *self.window)
        return self.names

    def _align(self, term: tuple[Dim, ...], axes: Axes, slot: int) -> list[tuple[int, Dim, Axis]]:
        """Match a term's dimensions with a tensor's; what `...` and `*` cover goes to `rest`."""
        if not term:
            return []  # the rule says nothing of it
        at = next((i for i, d in enumerate(term) if d.rest), None)
        if len(axes) < len(term) - (at is not None) or (at is None and len(axes) > len(term)):
            self.op.freeze(axes, "its rank is not what the rule expects")  # a scalar has nothing to freeze
            return []
        if at is None:
            return list(zip(range(len(axes)), term, axes, strict=True))
        after = len(term) - at - 1
        stop = len(axes) - after
        covered = axes[at:stop]
        self.rest[term[at].rest].append(covered)
        if term[at].rest == "*" and slot != 0:
            self.window += covered
        if term[at].statistic:
            for dim in range(at, stop):
                if slot >= 0:
                    self.op.statistic(slot, dim, self.why)
        head = list(zip(range(at), term[:at], axes[:at], strict=True))
        return head + list(zip(range(stop, len(axes)), term[at + 1 :], axes[stop:], strict=True))

    def _single(self, name: str, axis: Axis) -> None:
        known = self.names.setdefault(name, axis)
        if known is not axis and known.size != axis.size and set(known.size) == {1}:
            self.names[name] = axis  # the first was a broadcast
        elif known is not axis and set(axis.size) != {1}:
            self.op.equal(known, axis)

    def _factors(self, dim: Dim, axis: Axis) -> list[Axis]:
        """The factors' axes; at most one unknown size is found by division."""
        known = [self._known(name) for name in dim.factors]
        have = list(times([k for k in known if k is not None], self.op.runs))
        for i, (name, found) in enumerate(zip(dim.factors, known, strict=True)):
            if found is None:
                size = tuple(n // max(h, 1) for n, h in zip(axis.size, have, strict=True))
                known[i] = self.names[name] = Axis(size)
                have = [h * s for h, s in zip(have, size, strict=True)]
        return [k for k in known if k is not None]

    def _known(self, name: str) -> Axis | None:
        if name.isdigit():
            literal = self.op.fresh(int(name))
            self.op.freeze([literal], "a fixed number of parts")
            return literal
        if name not in self.names and name in self.sizes:
            self.names[name] = self.op.fresh(self.sizes[name])
        return self.names.get(name)

    def _mark(self, located: list[tuple[int, int, Dim, Axis]]) -> None:
        kept = self.pattern.kept
        for slot, dim_index, dim, _ in located:
            if slot < 0:
                continue
            if dim.statistic:
                self.op.statistic(slot, dim_index, self.why)
                continue
            for name in dim.factors:  # each sum on its own: its operands need not be those of another
                if name in kept or name.isdigit():
                    continue
                if not self.zeros or slot in self.zeros:
                    self.op.contract(slot, dim_index, name, zero=self.zeros.get(slot, -1))
                self.op.weights.add(slot)
