"""Methods: which weights become zero, and what the others become. One file each, found by name.

A method's function is `(weight, gram, pattern, sparsity) -> weight`: a matrix of shape [outputs, features] in, one
with zeros in the pattern out; `gram` holds the features' second moments, or is None without calibration data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pruneopt.arrays import Array
from pruneopt.passes.options import find_named
from pruneopt.passes.sparsity.gram import Gram
from pruneopt.passes.sparsity.methods.admm import admm
from pruneopt.passes.sparsity.methods.magnitude import magnitude
from pruneopt.passes.sparsity.methods.ria import ria
from pruneopt.passes.sparsity.methods.sparsegpt import sparsegpt
from pruneopt.passes.sparsity.methods.wanda import wanda
from pruneopt.passes.sparsity.patterns import Pattern


@dataclass(frozen=True)
class Method:
    """How weights become sparse.

    Attributes:
        prune: see above.
        refits: what stays changes, too, and so does a bias; otherwise the result is the weight with zeros in it.
        data: it needs calibration data.
    """

    prune: Callable[[Array, Gram | None, Pattern, float], Array]
    refits: bool = False
    data: bool = True


METHODS: dict[str, Method] = {
    "magnitude": Method(magnitude, data=False),
    "wanda": Method(wanda),
    "ria": Method(ria, data=False),
    "sparsegpt": Method(sparsegpt, refits=True),
    "admm": Method(admm, refits=True),
}


def find_method(name: str) -> Method:
    """The method of that name; third parties add theirs by entry points of the group `pruneopt.sparsity`."""
    return find_named("method", name, METHODS, "pruneopt.sparsity")
