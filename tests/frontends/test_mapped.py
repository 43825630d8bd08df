"""Weights that lie on disk."""

from __future__ import annotations

import gc
import tempfile
from pathlib import Path

import numpy as np
import pytest

from pruneopt import api
from pruneopt.frontends.mapped import release, spill, spilled_file
from pruneopt.model import constants, values
from pruneopt.passes.rewriting import shrink
from tests import models


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(shrink, "BIG", 0)
    monkeypatch.setattr(shrink, "PIECE", 1000)
    return tmp_path


def test_a_file_goes_with_its_last_view(temporary: Path) -> None:
    array = np.arange(6000, dtype=np.float64).reshape(60, 100)
    view = spill([array[:25], array[25:]], array.dtype, array.shape)[10:20]
    assert np.array_equal(view, array[10:20])
    release([view])
    assert np.array_equal(view, array[10:20])
    assert spilled_file(view) in list(temporary.iterdir())
    del view
    gc.collect()
    assert not list(temporary.iterdir())


def test_cuts_of_a_large_model_lie_on_disk(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.loaded(models.transformer())
    expected = api.prune(model, macs=0.5).model
    monkeypatch.setattr(shrink, "LARGE_MODEL", 0)
    found = api.prune(model, macs=0.5).model
    pairs = list(zip(constants(expected.graph), constants(found.graph), strict=True))
    assert all(a.name == b.name and np.array_equal(values(a), values(b)) for a, b in pairs)
    assert any(spilled_file(values(b)) for _, b in pairs)
