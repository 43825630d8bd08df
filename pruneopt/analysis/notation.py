"""Op semantics in einops notation, extended for what einops does not have.

    b (g i) *, (g o) i *, (g o) -> b (g o) *

A name stands for one axis wherever it appears; a name missing on the right is *contracted*. `(g i)` is
a row-major product, a number a factor of that size. `...` are broadcast dimensions, equal where their
sizes are. `*` are trailing dimensions that the op mixes by position (a convolution's window): frozen.
`~name` marks a statistic: the op's result depends on how many entries the axis has.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

TOKEN = re.compile(r"\(|\)|~?[A-Za-z_]\w*|~?\.\.\.|\d+|\*|\S")
REST = ("...", "*")


@dataclass(frozen=True)
class Dim:
    """One dimension: its factors (one unless in parentheses), and whether a statistic runs over it."""

    factors: tuple[str, ...]
    statistic: bool = False

    @property
    def rest(self) -> str:
        """`...` or `*` where this stands for any number of dimensions, else nothing."""
        return self.factors[0] if len(self.factors) == 1 and self.factors[0] in REST else ""


@dataclass(frozen=True)
class Pattern:
    """A parsed rule: one tuple of `Dim` per input and per output."""

    inputs: tuple[tuple[Dim, ...], ...]
    outputs: tuple[tuple[Dim, ...], ...]

    @property
    def kept(self) -> frozenset[str]:
        """The names that appear in an output."""
        return frozenset(f for term in self.outputs for dim in term for f in dim.factors)


@cache
def parse(text: str) -> Pattern:
    """Parse a rule such as `m k, k n, n -> m n`.

    Raises:
        ValueError: no arrow, an unknown character, or parentheses that do not match.
    """
    left, arrow, right = text.partition("->")
    if not arrow:
        raise ValueError(f"rule '{text}' has no '->'")
    return Pattern(_terms(left), _terms(right))


def _terms(text: str) -> tuple[tuple[Dim, ...], ...]:
    return tuple(_term(term) for term in text.split(","))


def _term(text: str) -> tuple[Dim, ...]:
    dims: list[Dim] = []
    group: list[str] | None = None
    for token in TOKEN.findall(text):
        name = token.removeprefix("~")
        if token == "(" and group is None:
            group = []
        elif token == ")" and group is not None:
            dims.append(Dim(tuple(group)))
            group = None
        elif not re.fullmatch(r"\w+|\.\.\.|\*", name):
            raise ValueError(f"unexpected '{token}' in rule term '{text.strip()}'")
        elif group is not None:
            group.append(name)
        else:
            dims.append(Dim((name,), token != name))
    if group is not None:
        raise ValueError(f"unclosed '(' in rule term '{text.strip()}'")
    return tuple(dims)
