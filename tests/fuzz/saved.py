"""Failures on disk: the graph, its feeds and masks, and what went wrong."""

from __future__ import annotations

import traceback
from pathlib import Path
from random import Random

import numpy as np
import onnx

from tests.fuzz.checks import Verdict, check_masks, draw_masks, subject
from tests.fuzz.graphs import Case, Feeds


def save(path: Path, case: Case, random: Random, error: Exception) -> None:
    """Write `path` as .onnx, .npz and .txt; `random` is as it was before the masks were drawn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(case.proto, path.with_suffix(".onnx"))
    arrays = {f"feed{i}/{name}": a for i, feeds in enumerate(case.feeds) for name, a in feeds.items()}
    try:
        ready = subject(case)
        masks = draw_masks(random, ready)
        arrays |= {f"mask/{i}": masks[axis] for i, axis in enumerate(ready.atoms) if axis in masks}
    except Exception:  # it fails before there are masks
        arrays["mask/none"] = np.zeros(0, bool)
    np.savez(path.with_suffix(".npz"), allow_pickle=False, **arrays)
    path.with_suffix(".txt").write_text("".join(traceback.format_exception(error)))


def replay(path: Path) -> Verdict:
    """Check a saved graph with its saved masks. Raises what the check raises.

    Raises:
        ValueError: the analysis finds other atoms than when it was saved; run its seed and number again.
    """
    with np.load(path.with_suffix(".npz")) as file:
        arrays = dict(file)
    one, two, three = (_part(arrays, f"feed{i}/") for i in range(3))
    case = Case(onnx.load(path), (one, two, three))
    ready = subject(case)
    masks = {ready.atoms[int(i)]: mask for i, mask in _part(arrays, "mask/").items() if i.isdigit()}
    if any(axis.size[0] != mask.size for axis, mask in masks.items()):
        raise ValueError(f"{path}: the masks are of another analysis; run the graph again by seed and number")
    return check_masks(case, ready, masks)


def _part(arrays: Feeds, prefix: str) -> Feeds:
    return {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}
