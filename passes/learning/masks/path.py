"""What a search has found, as a file: the scores of every group, by name, for this model only."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pruneopt.analysis.axes import Axis
from pruneopt.analysis.groups import Group
from pruneopt.arrays import Array, Feeds
from pruneopt.cache import cache_folder
from pruneopt.errors import PruneoptError
from pruneopt.model import values

Scores = Mapping[Axis, npt.NDArray[np.float64]]


@dataclass(frozen=True)
class Found:
    """Scores, for paths how many entries of each group were in at each record, and weights that have learned."""

    scores: Scores
    entered: Sequence[Sequence[int]] = ()
    adapted: Mapping[str, Array] = field(default_factory=dict)


def sign(groups: Sequence[Group]) -> int:
    """A checksum over the groups' names and the weights that they touch."""
    total = 0
    for group in groups:
        total = zlib.crc32(f"{group.name} {group.size}".encode(), total)
        for touch in group.touches:
            total = zlib.crc32(np.ascontiguousarray(values(touch.use.constant)).tobytes(), total)
    return total


def usual_place(about: object, groups: Sequence[Group], batches: Sequence[Feeds]) -> Path:
    """Where a search is kept that nobody named a file for: one for each setting, model and calibration data."""
    known = hashlib.sha256(f"{about!r} {sign(groups)}".encode())
    for feeds in batches:
        for name, array in sorted(feeds.items()):
            known.update(f"{name} {array.dtype} {array.shape}".encode())
            known.update(np.ascontiguousarray(array).tobytes())
    return cache_folder() / "searches" / f"{known.hexdigest()[:32]}.npz"


def save_path(path: Path, method: str, groups: Sequence[Group], found: Found) -> None:
    """Write it. Raises PruneoptError where that cannot be done."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            np.savez(
                file,
                method=np.array(method),
                model=np.array(sign(groups)),
                names=np.array([g.name for g in groups]),
                scores=np.concatenate([found.scores[g.atom] for g in groups]),
                entered=np.array(found.entered, np.int64),
            )
    except OSError as error:
        raise PruneoptError(f"the search cannot be saved to '{path}': {error.strerror}") from None


def load_path(path: Path, method: str, groups: Sequence[Group]) -> Found | None:
    """What a file holds; None where there is no such file.

    Raises PruneoptError where it cannot be read, or is of another method or model.
    """
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        known, of, scores = int(arrays["model"]), str(arrays["method"]), arrays["scores"]
        entered = arrays["entered"].tolist()
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        raise PruneoptError(f"'{path}' holds no saved search; name another file with path=") from None
    if of != method or known != sign(groups):
        raise PruneoptError(
            f"'{path}' holds a search by '{of}' over other weights or groups than these; name another file with path="
        )
    pieces = np.split(scores, np.cumsum([g.size for g in groups])[:-1])
    return Found({g.atom: piece for g, piece in zip(groups, pieces, strict=True)}, entered)
