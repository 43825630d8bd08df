"""What sort of width a group is, told from the algebra: what it is summed in, and what it shares an axis with."""

from __future__ import annotations

from collections.abc import Sequence

from pruneopt.analysis.groups import Group
from pruneopt.analysis.infer import Analysis
from pruneopt.passes.statistics.pairs import find_pairs

KINDS = ("inner", "heads", "score", "value", "stream")


def kinds_of(groups: Sequence[Group], analysis: Analysis) -> dict[Group, str]:
    """The kind of each group.

    `stream`: a norm or another statistic runs over it, as over the residual stream. `score`: it is summed in a product
    of two activations, as query and key widths are. `heads`: it leads an axis that such a width ends.
    `value`: another width that ends an axis. `inner`: all else, neurons and channels.
    """
    scores = {pair.atom for pair in find_pairs(analysis)}
    found = {}
    for group in groups:
        if group.coupled:
            found[group] = "stream"
        elif group.atom in scores:
            found[group] = "score"
        elif not group.cofactors:
            found[group] = "inner"
        else:
            found[group] = "heads" if group.granule > 1 else "value"
    return found
