"""How many tokens a stage leaves: one set of formulas for numbers and for lengths known only when the model runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import onnx_graphsurgeon as gs

from pruneopt.passes.length.emit import Emit

Count: TypeAlias = "int | gs.Tensor"  # a number, or a line (int64, shape [1])
WHOLE = 10_000  # shares are counted in parts of this, so that rounding up is exact


class Counter:
    """Arithmetic on counts: numbers stay numbers, anything else becomes nodes."""

    def __init__(self, emit: Emit | None = None) -> None:
        self.emit = emit

    def add(self, a: Count, b: Count) -> Count:
        """a + b."""
        return a + b if isinstance(a, int) and isinstance(b, int) else self._op("Add", a, b)

    def sub(self, a: Count, b: Count) -> Count:
        """a - b."""
        return a - b if isinstance(a, int) and isinstance(b, int) else self._op("Sub", a, b)

    def mul(self, a: Count, b: Count) -> Count:
        """a * b."""
        return a * b if isinstance(a, int) and isinstance(b, int) else self._op("Mul", a, b)

    def half(self, a: Count) -> Count:
        """a // 2 of a count that is not negative."""
        return a // 2 if isinstance(a, int) else self._op("Div", a, 2)

    def least(self, a: Count, b: Count) -> Count:
        """The smaller."""
        return min(a, b) if isinstance(a, int) and isinstance(b, int) else self._extreme("Min", a, b)

    def most(self, a: Count, b: Count) -> Count:
        """The larger."""
        return max(a, b) if isinstance(a, int) and isinstance(b, int) else self._extreme("Max", a, b)

    def share(self, a: Count, parts: int) -> Count:
        """ceil(a * parts / WHOLE)."""
        if isinstance(a, int):
            return (a * parts + WHOLE - 1) // WHOLE
        return self._op("Div", self.add(self.mul(a, parts), WHOLE - 1), WHOLE)

    def line(self, a: Count) -> gs.Tensor:
        """A count as a tensor, int64 of shape [1]."""
        assert self.emit is not None
        return self.emit.tensor([a]) if isinstance(a, int) else a

    def _extreme(self, op: str, a: Count, b: Count) -> gs.Tensor:
        """Of whole numbers, which these ops take since opset 12."""
        assert self.emit is not None
        self.emit.needs(12)
        return self._op(op, a, b)

    def _op(self, op: str, a: Count, b: Count) -> gs.Tensor:
        assert self.emit is not None
        return self.emit.op(op, self.line(a), self.line(b))


@dataclass(frozen=True)
class Stage:
    """What one stage leaves.

    Attributes:
        parts: share of the tokens behind the front that is left of those before the first stage, in `WHOLE`ths.
        front: tokens at the front that always stay.
    """

    parts: int
    front: int

    def target(self, count: Counter, first: Count) -> Count:
        """Tokens to leave when there were `first` before the first stage."""
        return count.add(self.front, count.share(count.sub(first, self.front), self.parts))


def halves(count: Counter, stage: Stage, tokens: Count) -> tuple[Count, Count]:
    """Tokens behind the front at even and at odd places, counted from the very first token."""
    even = stage.front + stage.front % 2
    odd = stage.front + 1 - stage.front % 2
    return (
        count.half(count.most(count.sub(count.add(tokens, 1), even), 0)),
        count.half(count.most(count.sub(count.add(tokens, 1), odd), 0)),
    )


def merged(count: Counter, stage: Stage, tokens: Count, first: Count) -> Count:
    """How many tokens a merging stage removes: as many as asked for, at most every second one."""
    even, odd = halves(count, stage, tokens)
    wanted = count.most(count.sub(tokens, stage.target(count, first)), 0)
    return count.least(wanted, count.least(even, odd))


def picked(count: Counter, stage: Stage, tokens: Count, first: Count) -> Count:
    """How many tokens a picking stage keeps, the fused one not counted: one at least goes into that."""
    wanted = count.most(count.sub(stage.target(count, first), 1), max(stage.front, 1))
    return count.least(wanted, count.sub(tokens, 1))
