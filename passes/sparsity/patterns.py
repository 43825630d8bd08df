"""Patterns: where the zeros of a weight may stand.

A weight is a matrix, shape [outputs, features]. A MatMul's [in, out] is read transposed, a Gemm's by its transB; a
convolution's [out, in, ...] is [out, in * window] in stored order, one matrix per group of channels.

    unstructured   anywhere
    AxB            units of A consecutive outputs by B consecutive features are zero or kept as a whole:
                   `16x1` is 16 consecutive outputs that share the zero of one feature, `1x16` one output that
                   skips 16 consecutive features
    n:m            of each m consecutive features of an output at most n are not zero
    n:mxA          the same choice for A consecutive outputs: `2:4x16` is 2:4 in units of 16x1

Units and groups of m start at output 0 and feature 0; where A, B or m does not divide the axis, the last is smaller.
A sparse weight is an ordinary tensor with zeros in it: nothing else says which pattern it has.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pruneopt.arrays import Array
from pruneopt.errors import UsageError

Mask = npt.NDArray[np.bool_]
TEXT = re.compile(r"(?:(\d+)x(\d+)|(\d+):(\d+)(?:x(\d+))?)")


@dataclass(frozen=True)
class Pattern:
    """Units of `outputs` by `features` weights; of each `group` units along the features at most `kept` are not zero.

    Attributes:
        outputs: consecutive outputs in a unit.
        features: consecutive features in a unit.
        kept: units kept of each group; 0 where any number may be.
        group: units in a group; 0 where there are no groups.
    """

    outputs: int = 1
    features: int = 1
    kept: int = 0
    group: int = 0

    def __str__(self) -> str:
        if self.group:
            shared = f"x{self.outputs}" if self.outputs > 1 else ""
            return f"{self.kept}:{self.group}{shared}"
        one = self.outputs == self.features == 1
        return "unstructured" if one else f"{self.outputs}x{self.features}"

    @property
    def span(self) -> int:
        """Features that have to be decided on together."""
        return self.features * (self.group or 1)

    @property
    def share(self) -> float | None:
        """The share of zeros that the pattern itself sets; None where it leaves that open."""
        return 1 - self.kept / self.group if self.group else None

    def units(self, scores: Array) -> Array:
        """Scores summed over each unit, shape [units of outputs, units of features]."""
        rows = np.arange(0, scores.shape[0], self.outputs)
        columns = np.arange(0, scores.shape[1], self.features)
        summed = scores if self.outputs == 1 else np.add.reduceat(scores, rows, axis=0)
        return summed if self.features == 1 else np.add.reduceat(summed, columns, axis=1)

    def spread(self, units: Array, shape: tuple[int, int]) -> Array:
        """What holds of each unit, for each weight; shape [outputs, features]."""
        rows = units if self.outputs == 1 else np.repeat(units, self.outputs, axis=0)
        whole = rows if self.features == 1 else np.repeat(rows, self.features, axis=1)
        return whole[: shape[0], : shape[1]]

    def keep(self, scores: Array, sparsity: float, by_row: bool = False) -> Mask:
        """The mask that keeps the units of the largest scores, shape [outputs, features]; of equals the first.

        Args:
            scores: of each weight, not negative; a unit counts with their mean.
            sparsity: share of the units that become zero; groups set it themselves.
            by_row: units compete within their row of units, not within the whole matrix.
        """
        units = self.units(scores) / self.units(np.ones(scores.shape, np.float32))
        if self.group:
            chosen = _best_of_groups(units, self.kept, self.group)
        elif by_row:
            chosen = _best(units, _left(units.shape[1], sparsity))
        else:
            chosen = _best(units.reshape(1, -1), _left(units.size, sparsity)).reshape(units.shape)
        return self.spread(chosen, (scores.shape[0], scores.shape[1]))

    def sparsity(self, weight: Array) -> float:
        """Share of a matrix's weights, [outputs, features], that are in units of nothing but zeros."""
        used = self.units((weight != 0).astype(np.int64)) > 0
        return 1 - float(self.spread(used, (weight.shape[0], weight.shape[1])).mean())

    def zero_units(self, weight: Array) -> float:
        """Share of a matrix's units, [outputs, features], that are nothing but zeros."""
        return float((self.units((weight != 0).astype(np.int64)) == 0).mean())

    def holds(self, weight: Array) -> bool:
        """Whether no group of a matrix, [outputs, features], has more units that are not zero than it may."""
        if not self.group:
            return True
        used = self.units((weight != 0).astype(np.int64)) > 0
        counts = np.add.reduceat(used.astype(np.int64), np.arange(0, used.shape[1], self.group), axis=1)
        return bool((counts <= self.kept).all())


def parse_pattern(text: str) -> Pattern:
    """The pattern that `text` names.

    Raises:
        UsageError: it names none.
    """
    if text == "unstructured":
        return Pattern()
    found = TEXT.fullmatch(text)
    if found is None:
        raise UsageError(
            f"there is no pattern '{text}'; write unstructured, a block such as 16x1 (outputs x inputs), "
            "2:4, or 2:4x16 where 16 outputs share the choice"
        )
    a, b, kept, group, shared = (int(x) if x else 0 for x in found.groups())
    if group:
        if not 0 < kept < group or found[5] == "0":
            raise UsageError(
                f"pattern {text}: of {group} weights {kept} cannot be kept; write n:m with 0 < n < m"
            )
        return Pattern(shared or 1, 1, kept, group)
    if not a or not b:
        raise UsageError(f"pattern {text}: a block has at least one output and one input")
    return Pattern(a, b)


def _left(count: int, sparsity: float) -> int:
    return count - round(sparsity * count)


def _best(scores: Array, count: int) -> Mask:
    """In each row the `count` largest; of equals the first."""
    if not 0 < count < scores.shape[1]:
        return np.full(scores.shape, count > 0)
    least = np.partition(scores, -count, axis=1)[:, -count:].min(1, keepdims=True)
    found: Mask = scores >= least
    if np.count_nonzero(found) > count * len(found):  # more are equal than have a place
        above = scores > least
        equal = found & ~above
        found = above | (equal & (np.cumsum(equal, axis=1) <= count - above.sum(1, keepdims=True)))
    return found


def _best_of_groups(units: Array, kept: int, group: int) -> Mask:
    rows, columns = units.shape
    missing = -columns % group
    padded = np.pad(units.astype(np.float64), ((0, 0), (0, missing)), constant_values=-np.inf)
    chosen = _best(padded.reshape(-1, group), kept)
    return chosen.reshape(rows, -1)[:, :columns]
