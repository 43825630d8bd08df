"""The user's own feeds: from `.npz` files, folders of them, or a function."""

import importlib
import os
import sys
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.arrays import Array
from pruneopt.errors import PruneoptError, UsageError
from pruneopt.frontends.dimensions import Feeds, Sizes, is_dynamic, key_of
from pruneopt.frontends.tensors import element_type
from pruneopt.model import Model


def load_calibration(spec: str, model: Model, labels: Sequence[str] = ()) -> list[Feeds]:
    """The batches that `spec` names, checked against the model's inputs.

    Each also holds the arrays called `labels`, which the model does not take: one entry of axis 0 for each row.

    `FILE.npz` holds one array for each input, by name. Arrays of the input's rank are one batch, or as many
    as fit where the model fixes axis 0; arrays with one more axis are a stack of batches along axis 0.
    `FOLDER` stands for all .npz files in it, by name. `MODULE:FUNCTION` is called without arguments and
    yields feeds; the current folder is searched for it, too.

    Raises `PruneoptError` that says which input is wrong, what is expected and what was found.
    """
    if taken := sorted(set(labels) & {t.name for t in model.inputs}):
        raise UsageError(f"'{taken[0]}' is an input of the model, no label")
    feeds = [_checked(batch, model, labels, origin) for origin, batch in _read(spec, model, labels)]
    if not feeds:
        raise PruneoptError(f"calibration data {spec!r} is empty; give at least one batch")
    return feeds


def _read(spec: str, model: Model, labels: Sequence[str]) -> Iterator[tuple[str, Feeds]]:
    """(where it is from, batch) of all that `spec` names."""
    path = Path(spec)
    if path.is_dir() or path.suffix == ".npz":
        for file in sorted(path.glob("*.npz")) if path.is_dir() else [path]:
            arrays = _npz(file)
            _check_names(arrays, model, labels, str(file))
            yield from ((str(file), batch) for batch in _batches(arrays, model, str(file)))
        return
    module, _, function = spec.partition(":")
    if not function:
        raise PruneoptError(f"calibration data {spec!r} is no .npz file, no folder and not MODULE:FUNCTION")
    for batch in _call(module, function):
        if not isinstance(batch, Mapping):
            raise PruneoptError(
                f"{spec} yields {type(batch).__name__}, but a dict of input name to array is needed"
            )
        arrays = {name: np.asarray(array) for name, array in batch.items()}
        _check_names(arrays, model, labels, spec)
        yield spec, arrays


def _npz(path: Path) -> Feeds:
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except FileNotFoundError:
        raise PruneoptError(f"calibration file {path} does not exist") from None
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise PruneoptError(f"calibration file {path} cannot be read: {error}") from error


def _call(module: str, function: str) -> Iterator[Any]:
    sys.path.insert(0, os.getcwd())
    try:
        yield from getattr(importlib.import_module(module), function)()
    except Exception as error:  # whatever the user's own code raises
        raise PruneoptError(f"calibration function {module}:{function} failed: {error}") from error
    finally:
        sys.path.remove(os.getcwd())


def _check_names(arrays: Feeds, model: Model, labels: Sequence[str], origin: str) -> None:
    names = [tensor.name for tensor in model.inputs]
    for name in arrays:
        if name not in names and name not in labels:
            raise PruneoptError(
                f"{origin}: the model has no input {name!r}; its inputs are {', '.join(names)}, "
                "and arrays of labels are to be named (--labels)"
            )
    for name in (*names, *labels):
        if name not in arrays:
            kind = "label" if name in labels else "input"
            raise PruneoptError(f"{origin}: there is no array for {kind} {name!r}")
    for name in labels:
        if arrays[name].ndim == 0:
            raise PruneoptError(f"{origin}: label {name!r} is a scalar, but needs an entry for each row")


def _batches(arrays: Feeds, model: Model, origin: str) -> Iterator[Feeds]:
    """Cuts the arrays of one file into batches, see `load_calibration`."""
    stacked = all(t.shape is not None and arrays[t.name].ndim == len(t.shape) + 1 for t in model.inputs)
    if stacked:
        counts = {name: len(array) for name, array in arrays.items()}
        if len(set(counts.values())) > 1:
            raise PruneoptError(f"{origin}: the stacks differ in length: {counts}")
        yield from ({name: array[i] for name, array in arrays.items()} for i in range(min(counts.values())))
        return
    counts = {
        t.name: len(arrays[t.name]) / t.shape[0] for t in model.inputs if _fixes_batch(t, arrays[t.name])
    }
    count = next(iter(counts.values()), 1)
    if count <= 1 or len(counts) < len(model.inputs) or set(counts.values()) != {int(count)}:
        yield arrays
        return
    for name, array in arrays.items():
        if len(array) % int(count):
            raise PruneoptError(
                f"{origin}: {name!r} of {len(array)} rows cannot be cut into {int(count)} batches"
            )
    pieces = {name: np.split(array, int(count)) for name, array in arrays.items()}
    yield from ({name: piece[i] for name, piece in pieces.items()} for i in range(int(count)))


def _fixes_batch(tensor: gs.Variable, array: Array) -> bool:
    return bool(tensor.shape) and array.ndim > 0 and not is_dynamic(tensor.shape[0])


def _checked(feeds: Feeds, model: Model, labels: Sequence[str], origin: str) -> Feeds:
    """The feeds as the model takes them; raises where type, rank or size of one is not the input's."""
    sizes: Sizes = {}
    rows = {len(feeds[t.name]) for t in model.inputs if feeds[t.name].ndim}
    for name in labels:
        if len(rows) == 1 and len(feeds[name]) not in rows:
            raise PruneoptError(
                f"{origin}: label {name!r} should have {min(rows)} rows as the inputs have, "
                f"but is {_list(feeds[name].shape)}"
            )
    for tensor in model.inputs:
        array = feeds[tensor.name]
        dtype, shape = element_type(tensor), tensor.shape
        if not _fits_type(array.dtype, dtype) or (
            shape is not None and not _fits_shape(array.shape, tensor, sizes)
        ):
            wanted = [sizes.get(key_of(tensor, axis), size) for axis, size in enumerate(shape or ())]
            raise PruneoptError(
                f"{origin}: input {tensor.name!r} should be {dtype} {_list(wanted)}, "
                f"but is {array.dtype} {_list(array.shape)}"
            )
    given = {
        tensor.name: feeds[tensor.name].astype(element_type(tensor), copy=False) for tensor in model.inputs
    }
    return given | {name: feeds[name] for name in labels}


def _fits_type(found: np.dtype[Any], wanted: np.dtype[Any]) -> bool:
    """Equal, or the one way that an .npz file has to hold strings, bfloat16 and float8."""
    if wanted.kind == "O":
        return found.kind in "OSU"
    return found == wanted or (wanted.kind == "V" and found == np.float32)


def _fits_shape(found: tuple[int, ...], tensor: gs.Variable, sizes: Sizes) -> bool:
    """Whether an array fits an input; a named dimension has the size, noted in `sizes`, it had before."""
    if len(found) != len(tensor.shape):
        return False
    return all(
        size == (sizes.setdefault(key_of(tensor, axis), size) if is_dynamic(wanted) else wanted)
        for axis, (size, wanted) in enumerate(zip(found, tensor.shape, strict=True))
    )


def _list(sizes: Iterable[int | str | None]) -> str:
    return f"[{', '.join('?' if size is None else str(size) for size in sizes)}]"
