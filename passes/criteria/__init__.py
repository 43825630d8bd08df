"""Criteria: how much each entry of a group is worth. One file each, found by name.

A criterion is a function `(group, evidence) -> scores`, shape [group size], larger is more worth keeping.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from pruneopt.analysis.groups import Group
from pruneopt.passes.criteria.bn_scale import bn_scale
from pruneopt.passes.criteria.fisher import fisher
from pruneopt.passes.criteria.flap import flap
from pruneopt.passes.criteria.fpgm import fpgm
from pruneopt.passes.criteria.gradient import taylor, taylor_element
from pruneopt.passes.criteria.hsic import hsic
from pruneopt.passes.criteria.llm_pruner import param_first, param_mix, param_second, vectorize
from pruneopt.passes.criteria.magnitude import magnitude_l1, magnitude_l2
from pruneopt.passes.criteria.nvit import nvit
from pruneopt.passes.criteria.obs import obs
from pruneopt.passes.criteria.random import random_scores
from pruneopt.passes.criteria.wanda import wanda
from pruneopt.passes.options import find_named
from pruneopt.passes.statistics.evidence import Evidence

Scores = npt.NDArray[np.float64]
Criterion = Callable[[Group, Evidence], Scores]

CRITERIA: dict[str, Criterion] = {
    "l1": magnitude_l1,
    "l2": magnitude_l2,
    "bn-scale": bn_scale,
    "fpgm": fpgm,
    "wanda": wanda,
    "flap": flap,
    "obs": obs,
    "random": random_scores,
    "taylor": taylor,
    "taylor-element": taylor_element,
    "fisher": fisher,
    "vectorize": vectorize,
    "param-first": param_first,
    "param-second": param_second,
    "param-mix": param_mix,
    "nvit": nvit,
    "hsic": hsic,
}

WEIGHTS_ONLY = ("l1", "l2", "bn-scale", "fpgm", "random")  # nothing has to be measured for these


def find_criterion(name: str) -> Criterion:
    """The criterion of that name; third parties add theirs by entry points of the group `pruneopt.criteria`."""
    return find_named("criterion", name, CRITERIA, "pruneopt.criteria")
