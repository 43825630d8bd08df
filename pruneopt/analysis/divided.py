"""Sizes that are divided at run time by a constant that is the size of a factor: `batch = rows // heads`.

Nothing else says that such a constant is a number of heads, so that it has to shrink with them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations
from math import prod

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.analysis.axes import Axis, Reason, factors, freeze, product
from pruneopt.analysis.op import Axes
from pruneopt.analysis.witness import Sizes
from pruneopt.arrays import Array
from pruneopt.model import values

WRAPPERS = ("Cast", "Identity", "Squeeze", "Unsqueeze")  # of a single number


def divisors(nodes: Iterable[gs.Node], axes: Mapping[str, Axes], runs: int) -> Iterator[Sizes]:
    """A witness for each such constant; what may be one of several factors is frozen."""
    for node in nodes:
        by = node.inputs[1] if node.op == "Div" else None
        if not isinstance(by, gs.Constant) or by.dtype not in (np.int64, np.int32) or prod(by.shape) != 1:
            continue
        place = _measured(node.inputs[0])
        if place is None or place[0] not in axes:
            continue
        sets = list(_of_size(factors(axes[place[0]][place[1]]), int(values(by).item())))
        if len(sets) == 1:
            yield Sizes(node, 1, ((product(sets[0], runs),),))
        for axis in (each for some in sets if len(sets) > 1 for each in some):
            freeze(axis, Reason("a size is divided by it or by another one", node.name))


def _of_size(found: list[Axis], size: int) -> Iterator[tuple[Axis, ...]]:
    """All sets of static factors that multiply to this size."""
    static = [each for each in found if each.static and each.size[0] > 1]
    for count in range(1, len(static) + 1):
        yield from (some for some in combinations(static, count) if prod(a.size[0] for a in some) == size)


def _measured(tensor: gs.Tensor) -> tuple[str, int] | None:
    """The tensor and the dimension whose size a single number is."""
    node = _maker(tensor)
    picks: Array | None = None
    while node is not None and node.op in WRAPPERS:
        node = _maker(node.inputs[0])
    if node is not None and node.op in ("Gather", "Slice") and isinstance(node.inputs[1], gs.Constant):
        picks = values(node.inputs[1])
        node = _maker(node.inputs[0])
    if node is None or node.op != "Shape":
        return None
    start = node.attrs.get("start", 0)
    end = node.attrs.get("end", 0)  # without one, only the very last size is a single one
    picks = np.arange(end - start) if picks is None else picks
    if picks.size != 1 or (node.attrs and picks.item() < 0):
        return None
    return str(node.inputs[0].name), start + int(picks.item())


def _maker(tensor: gs.Tensor) -> gs.Node | None:
    return tensor.inputs[0] if tensor.inputs else None
