"""First order (Molchanov et al. 2017): what the loss changes by, linearly, when an entry is set to zero.

Gates: setting everything that goes with entry i to zero changes the loss by -sum w g in first order, the sum over
all weights of the group; that product is also the gradient by a gate on the entry, once for each weight that it is
multiplied into. Without a loss the gradients are those of `learning.losses`: random draws whose mean square is the
curvature of the distance to the dense outputs, so that |.| and squares per sample mean what they say, while forms
that sum gradients over samples first (`vectorize`, `param-first`) are noisy; give those a loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from pruneopt.analysis.groups import Group, Touch
from pruneopt.analysis.masks import pull_back
from pruneopt.passes.criteria.magnitude import magnitude_l2
from pruneopt.passes.learning.gradients import Gradients, Sums
from pruneopt.passes.statistics.evidence import Evidence

Scores = npt.NDArray[np.float64]


def taylor(group: Group, evidence: Evidence) -> Scores:
    """Mean over samples of |sum w g|, the vector form. Shape [size]."""
    found = gates(group, evidence.gradients())
    return magnitude_l2(group) if found is None else np.asarray(np.abs(found).mean(0))


def taylor_element(group: Group, evidence: Evidence) -> Scores:
    """Mean over samples of sum |w g|, the element form. Shape [size]."""
    return elements(group, evidence, lambda s: np.abs(s.weight) * s.absolute)


def gates(group: Group, found: Gradients) -> Scores | None:
    """Sum of w g over all that goes with each entry, for each sample. [samples, size]; None without any gradient."""
    total: Scores | None = None
    for touch, sums in touched(group, found):
        each = np.stack([pull_back(touch.axis, group.atom, p) for p in sums.products[touch.dim]])
        total = each if total is None else total + each
    return total


def elements(group: Group, evidence: Evidence, score: Callable[[Sums], npt.NDArray[np.float32]]) -> Scores:
    """Sum of a score per weight entry over all that goes with each entry of the group. Shape [size]."""
    total, seen = np.zeros(group.size), False
    for touch, sums in touched(group, evidence.gradients()):
        others = tuple(d for d in range(sums.weight.ndim) if d != touch.dim)
        total += pull_back(touch.axis, group.atom, score(sums).sum(others, dtype=np.float64))
        seen = True
    return total if seen else magnitude_l2(group)


def touched(group: Group, found: Gradients) -> Iterator[tuple[Touch, Sums]]:
    """Each weight dimension that goes with the group and has gradients, once."""
    seen = set[tuple[str, int]]()
    for touch in group.touches:
        key = (str(touch.use.constant.name), touch.dim)
        if key[0] in found.sums and key not in seen:
            seen.add(key)
            yield touch, found.sums[key[0]]
