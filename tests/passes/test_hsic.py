"""HSIC against numbers worked out by hand for two samples."""

from __future__ import annotations

import numpy as np
import pytest

import pruneopt as po
from pruneopt.analysis.groups import find_groups
from pruneopt.analysis.infer import analyse
from pruneopt.api import make_context
from pruneopt.errors import UsageError
from pruneopt.model import Model
from pruneopt.passes.criteria.hsic import SHARE, WIDTHS, hsic
from pruneopt.passes.statistics.consumers import find_consumers
from pruneopt.passes.statistics.evidence import Evidence
from tests import models


def net() -> Model:
    b = models.Builder()
    h = b.node("Relu", b.node("MatMul", "x", b.weight(2, 3)), outputs=["h"])
    b.node("Sigmoid", b.node("MatMul", h, b.weight(3, 2)), outputs=["y"])
    return models.loaded(b.model({"x": ["n", 2]}, {"y": ["n", 2]}))


def test_two_samples_by_hand() -> None:
    """With n = 2 both centred kernels are multiples of [[1, -1], [-1, 1]]: HSIC = (1 - k) |y1 - y2|^2 / 2."""
    model = net()
    analysis = analyse(model, make_context(model).observation(model))
    (group,) = find_groups(analysis)
    h = np.array([[0.0, 1.0, 2.0], [3.0, 1.0, 2.5]])
    y = np.array([[0.2, 0.9], [0.6, 0.6]])
    evidence = Evidence(analysis, consumers=find_consumers(analysis), look=lambda names: {"h": h, "y": y})
    near = np.array([np.mean([np.exp(-(d**2) / (2 * s * s)) for s in WIDTHS]) for d in (3.0, 0.0, 0.5)])
    tells = (1 - near) * 0.25 / 2
    size = np.array([3.0, 2.0, 4.5])
    expected = SHARE * tells / tells.sum() + (1 - SHARE) * size / size.sum()
    np.testing.assert_allclose(hsic(group, evidence), expected, rtol=1e-9)


@pytest.mark.parametrize("name", ["convnet", "transformer"])
def test_it_prunes(name: str) -> None:
    model = models.loaded(getattr(models, name)())
    shape = [8, 3, 16, 16] if name == "convnet" else [8, 6, 24]
    calib = [{"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}]
    found = po.prune(
        model, passes="simplify, width{macs=0.6, criterion=hsic, plan=uniform}", calib=calib, timed=False
    )
    assert found.report["output"]["macs"] <= 0.6 * found.report["input"]["macs"]


def test_needs_calibration_data() -> None:
    with pytest.raises(UsageError, match="calibration"):
        po.prune(net(), passes="width{ratio=0.5, criterion=hsic}", timed=False)
