"""Classes that come with the calibration data: an array of whole numbers beside the model's inputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pruneopt.arrays import Feeds
from pruneopt.errors import UsageError
from pruneopt.model import Model


def classes(model: Model, feeds: Feeds) -> npt.NDArray[np.int64]:
    """The class of every row of a batch, shape [rows].

    Raises UsageError where the batch has no array of whole numbers that is no input, or several.
    """
    inputs = {t.name for t in model.inputs}
    found = {n: a for n, a in feeds.items() if n not in inputs and a.dtype.kind in "iu" and a.ndim == 1}
    if len(found) != 1:
        what = f"there are {', '.join(sorted(found))}" if found else "there is none"
        raise UsageError(
            "one array with the class of every row, as whole numbers, is needed beside the inputs in the "
            f"calibration data, but {what}; name it with --labels"
        )
    return next(iter(found.values())).astype(np.int64)


def by_class(model: Model, batches: Sequence[Feeds], most: int) -> list[tuple[int, Feeds]]:
    """(class, rows of it), at most `most` rows together: every row of the batches once, smaller batches at the ends.

    Raises UsageError where there are no classes, or batches differ in more than their rows.
    """
    names = list(batches[0])
    of_rows = np.concatenate([classes(model, feeds) for feeds in batches])
    try:
        whole = {name: np.concatenate([feeds[name] for feeds in batches]) for name in names}
    except ValueError:
        raise UsageError("batches of different sizes cannot be sorted by class; make them equal") from None
    if any(len(array) != len(of_rows) for array in whole.values()):
        raise UsageError("the model's inputs have no common first dimension that classes could go by")
    found: list[tuple[int, Feeds]] = []
    for label in np.unique(of_rows).tolist():
        rows = np.flatnonzero(of_rows == label)
        for at in range(0, len(rows), most):
            pick = rows[at : at + most]
            found.append((int(label), {n: np.ascontiguousarray(a[pick]) for n, a in whole.items()}))
    return found
