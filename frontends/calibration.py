"""Feeds: one batch for each input of a model, drawn from the inputs' types or read from the user's files.

The size of a dynamic dimension goes by a key: its name in the model (`batch`), or `INPUT:AXIS` where it has
none.
"""

import importlib
import itertools
import os
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from pruneopt.errors import PruneoptError
from pruneopt.model import Model, constants, values

Array = np.ndarray[Any, Any]
Feeds = dict[str, Array]
Sizes = dict[str, int]
Place = tuple[gs.Variable, int]
Pair = tuple[int, int]

# Names that exporters give to dimensions they know nothing about: equal names do not mean equal sizes.
UNNAMED = {"", "?", "-1", "None"}


def dynamic_dims(model: Model) -> dict[str, list[tuple[str, int]]]:
    """Key of each dynamic dimension -> the (input name, axis) pairs that have it."""
    return {key: [(tensor.name, axis) for tensor, axis in places] for key, places in _places(model).items()}


def _places(model: Model) -> dict[str, list[Place]]:
    found: dict[str, list[Place]] = {}
    for tensor in model.inputs:
        for axis, size in enumerate(tensor.shape or ()):
            if _is_dynamic(size):
                found.setdefault(_key(tensor, axis), []).append((tensor, axis))
    return found


def _is_dynamic(size: int | str | None) -> bool:
    return not isinstance(size, int) or size <= 0


def _key(tensor: gs.Variable, axis: int) -> str:
    size = tensor.shape[axis]
    return size if isinstance(size, str) and size not in UNNAMED else f"{tensor.name}:{axis}"


# --- synthetic feeds ---------------------------------------------------------------------------------------


def synthetic(model: Model, sizes: Mapping[str, int], seed: int = 0) -> Feeds:
    """One batch for every input; `sizes` gives the size of each key of `dynamic_dims`.

    Floats are standard normal, booleans True, strings "a". Integers that end up as an index (tokens) are
    uniform over the valid indices, uint8 images uniform over 0..255, other integers (masks) 1. Raises
    `PruneoptError` for inputs that are no tensor or have no known rank, and for a size that is not given.
    """
    return {
        tensor.name: _draw(tensor, _shape(tensor, sizes), np.random.default_rng([seed, index]))
        for index, tensor in enumerate(model.inputs)
    }


def _shape(tensor: gs.Variable, sizes: Mapping[str, int]) -> tuple[int, ...]:
    if tensor.type not in (None, "tensor_type"):
        kind = tensor.type.removesuffix("_type")
        raise PruneoptError(
            f"input {tensor.name!r} is of type {kind}; pruneopt can only draw tensors, give --calib"
        )
    if tensor.shape is None:
        raise PruneoptError(f"input {tensor.name!r} does not say how many dimensions it has; give --calib")
    keys = {axis: _key(tensor, axis) for axis, size in enumerate(tensor.shape) if _is_dynamic(size)}
    for axis, key in keys.items():
        if key not in sizes:
            raise PruneoptError(f"input {tensor.name!r}: no size is given for axis {axis} ({key})")
    return tuple(sizes[keys[axis]] if axis in keys else size for axis, size in enumerate(tensor.shape))


def _dtype(tensor: gs.Variable) -> np.dtype[Any]:
    """The array type of a tensor; bfloat16 and float8 as `ml_dtypes`, for which gs keeps ONNX's number."""
    code = tensor.dtype
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(code) if isinstance(code, int) else code)


def _draw(tensor: gs.Variable, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    dtype = _dtype(tensor)
    if dtype.kind in "OSU":
        return np.full(shape, "a", object)
    if dtype.kind not in "iu":
        drawn = np.ones(shape) if dtype.kind == "b" else np.asarray(rng.standard_normal(shape))
        return drawn.astype(dtype)
    image = dtype == np.uint8 and len(shape) > 2
    limit = _index_limit(tensor) or (256 if image else None)
    return np.asarray(rng.integers(0, limit, shape) if limit else np.ones(shape)).astype(dtype)


# Ops that pass an index on, from any of their inputs.
CARRIES_INDEX = {
    *(
        "Cast",
        "Clip",
        "Concat",
        "Expand",
        "Flatten",
        "Gather",
        "Identity",
        "Max",
        "Min",
        "Reshape",
        "ScatterND",
    ),
    *("Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where"),
}
# Lookups: op -> input that is the index -> input that is the table.
TABLES = {"Gather": {1: 0}, "EmbedLayerNormalization": {0: 2, 1: 4}, "GatherBlockQuantized": {1: 0}}


def _index_limit(tensor: gs.Variable) -> int | None:
    """The smallest number of rows of a table that `tensor` is an index into; None where it is no index."""
    limits = [
        rows - added for node, place, added in _uses(tensor) if (rows := _rows(node, place)) is not None
    ]
    return max(1, min(limits)) if limits else None


def _uses(tensor: gs.Variable) -> Iterator[tuple[gs.Node, int, int]]:
    """(node, input place, what was added on the way) of everything that `tensor` reaches as an index."""
    seen = {id(tensor)}
    waiting = [(tensor, 0)]
    while waiting:
        current, added = waiting.pop()
        for node, place in _consumers(current):
            yield node, place, added
            step = _carried(node, place)
            new = [each for each in node.outputs if step is not None and id(each) not in seen]
            seen.update(map(id, new))
            waiting += [(each, added + (step or 0)) for each in new]


def _consumers(tensor: gs.Variable) -> Iterator[tuple[gs.Node, int]]:
    for node in {id(node): node for node in tensor.outputs}.values():
        yield from ((node, place) for place, each in enumerate(node.inputs) if each is tensor)


def _rows(node: gs.Node, place: int) -> int | None:
    """How many values an index at input `place` of `node` may have, where `node` looks something up."""
    if node.op == "Equal":  # ids == [0, 1, ..., n-1] is a one-hot code
        codes = _constant(node.inputs[1 - place])
        return (
            int(codes.max()) + 1
            if codes is not None and codes.dtype.kind in "iu" and codes.size > 2
            else None
        )
    table = TABLES.get(node.op, {}).get(place)
    if table is None:
        return None
    shape = _origin(node.inputs[table]).shape
    axis = node.attrs.get("axis", node.attrs.get("gather_axis", 0))
    return shape[axis] if shape and isinstance(shape[axis], int) and shape[axis] > 0 else None


def _carried(node: gs.Node, place: int) -> int | None:
    """What is added to an index on its way from input `place` through `node`; None where it is lost."""
    if node.op == "Add":
        other = _constant(node.inputs[1 - place])
        return int(other.max()) if other is not None and other.size else None
    is_data = place > 0 if node.op == "Where" else place == 0 or node.op in ("Concat", "Max", "Min")
    return 0 if node.op in CARRIES_INDEX and is_data else None


def _constant(tensor: gs.Tensor) -> Array | None:
    origin = _origin(tensor)
    return values(origin) if isinstance(origin, gs.Constant) else None


def _origin(tensor: gs.Tensor) -> gs.Tensor:
    """The tensor of the same shape that `tensor` is a copy or a conversion of."""
    while tensor.inputs and tensor.inputs[0].op in ("Identity", "Cast", "DequantizeLinear"):
        tensor = tensor.inputs[0].inputs[0]
    return tensor


# --- sizes of the dynamic dimensions -----------------------------------------------------------------------

# (small, large) sizes to try, cheapest first. Later entries are for models that need more: windows and many
# poolings, or raw audio. Sides of images divide by 32, lengths are odd so that a halving cannot hide.
LEVELS: dict[str, list[tuple[int, int]]] = {
    "image": [(64, 96), (32, 48), (224, 256), (320, 384), (512, 640)],
    "length": [(7, 48), (7, 11), (32, 48), (6, 9), (64, 96), (256, 384)],
    "signal": [(7, 11), (512, 640), (2048, 3072), (16000, 20000), (64000, 80000)],
}
LARGE_MODEL = 1 << 30  # bytes of weights
BATCHES = [(2, 3), (1, 1)]
# How the dimensions of one kind relate: sizes of their own or one size; then, for models that turn out to be
# less dynamic than they say, the same in both runs, or all as the batch.
RELATIONS = [("distinct", "equal"), ("fixed", "batch")]


def probe_sizes(model: Model) -> Iterator[tuple[Sizes, Sizes]]:
    """Candidate (small, large) sizes of all dynamic dimensions, most telling and cheapest first.

    The first candidates differ in every dimension and give each dimension a size of its own; later ones hold
    back for models that do not run so (batch of one, equal lengths, fixed sides). Channel counts follow from
    the weights; a dimension named by a sum (`past + seq`) follows from its terms. A model with nothing
    dynamic yields one pair of empty assignments.
    """
    places = _places(model)
    seen: list[tuple[Sizes, Sizes]] = []
    levels = (1, 0, 2, 3, 4) if _is_large(model) else range(5)
    for relations in RELATIONS:
        for level, relation, batch in itertools.product(levels, relations, BATCHES):
            pair = (
                _assignment(places, relation, level, batch, 0),
                _assignment(places, relation, level, batch, 1),
            )
            if pair not in seen:
                seen.append(pair)
                yield pair


def _is_large(model: Model) -> bool:
    """Whether every run is dear, so that short inputs go first."""
    return sum(int(c._values.nbytes) for c in constants(model.graph)) > LARGE_MODEL


def working_feeds(model: Model, runs: Callable[[Feeds], bool], seed: int = 0) -> tuple[Feeds, Feeds]:
    """Synthetic feeds of the first two sizes of `probe_sizes` at which `runs` says yes to both.

    `runs` may also raise `PruneoptError` for no. Raises `PruneoptError` where nothing works, with the reason
    that was given for the first try. A model with nothing dynamic gets two draws of the same size.
    """
    reasons: list[str] = []

    def works(feeds: Feeds) -> bool:
        try:
            return runs(feeds)
        except PruneoptError as error:
            reasons.append(str(error))
            return False

    for small, large in probe_sizes(model):
        pair = synthetic(model, small, seed), synthetic(model, large, seed + 1)
        if works(pair[0]) and works(pair[1]):
            return pair
    reason = reasons[0] if reasons else "an output has no elements"
    raise PruneoptError(f"the model runs on no synthetic input that was tried; give --calib ({reason})")


def _assignment(places: dict[str, list[Place]], relation: str, level: int, batch: Pair, run: int) -> Sizes:
    """The size of every key in one run (0: small, 1: large) of one candidate."""
    sizes: Sizes = {}
    used = Counter[str]()
    sums = {key: terms for key in places if (terms := _terms(key, places))}
    for key, where in places.items():
        if key in sums:
            continue
        kind = "batch" if relation == "batch" else _kind(key, where)
        small, large = batch if kind == "batch" else LEVELS[kind][level]
        apart = 2 * (large - small) * used[kind] if relation == "distinct" and kind != "batch" else 0
        used[kind] += 1
        varies = run and (relation != "fixed" or kind == "batch")
        sizes[key] = _channels(*where[0]) or apart + (large if varies else small)
    return sizes | {
        key: sum(sizes[term] if term in sizes else int(term) for term in terms) for key, terms in sums.items()
    }


def _kind(key: str, places: list[Place]) -> str:
    """What a dynamic dimension counts, by its name and else by where it is."""
    name = key.lower()
    tensor, axis = places[0]
    is_float = _dtype(tensor).kind in "fV"
    rank = len(tensor.shape)
    if "batch" in name:
        return "batch"
    if any(word in name for word in ("seq", "len", "past", "token", "time")):
        return "length"
    if 2 * sum(axis == 0 for _, axis in places) > len(places):
        return "batch"
    if is_float and rank > 3:
        return "image"
    waveform = rank == 2 or (rank == 3 and 1 in tensor.shape)
    return "signal" if is_float and waveform and axis == rank - 1 else "length"


def _terms(key: str, keys: Iterable[str]) -> list[str]:
    """The keys and numbers that the size `key` is the sum of; empty where it is a size of its own."""
    plain = [each for each in keys if "+" not in each]
    terms = [term.strip() for term in key.split("+")]
    if len(terms) > 1 and all(term in plain or term.isdigit() for term in terms):
        return terms
    past = [each for each in plain if "past" in each and "total" not in each]
    new = [each for each in plain if "seq" in each and "past" not in each and "total" not in each]
    return [past[0], new[0]] if "total" in key and past and new else []


def _channels(tensor: gs.Tensor, axis: int) -> int | None:
    """The size of `axis` where weights that consume it prescribe one, as the kernels of a Conv do."""
    for node, place in _consumers(tensor):
        if node.op in ("Identity", "Cast"):
            return _channels(node.outputs[0], axis)
        if node.op == "Transpose" and "perm" in node.attrs:
            return _channels(node.outputs[0], list(node.attrs["perm"]).index(axis))
        weight = _origin(node.inputs[1]) if place == 0 and len(node.inputs) > 1 else None
        if isinstance(weight, gs.Constant):
            return _contracted(node, weight.shape, axis, len(tensor.shape or ()))
    return None


def _contracted(node: gs.Node, weight: Sequence[int], axis: int, rank: int) -> int | None:
    """How long `axis` of the data must be for `node` to apply a weight of shape `weight` to it."""
    if node.op == "Conv" and axis == 1:
        return int(weight[1] * node.attrs.get("group", 1))
    if node.op == "Gemm" and axis == 1:
        return weight[1 if node.attrs.get("transB", 0) else 0]
    if node.op == "MatMul" and axis == rank - 1 and len(weight) > 1:
        return weight[-2]
    return weight[2] if node.op in ("LSTM", "GRU", "RNN") and axis == 2 else None


# --- the user's feeds --------------------------------------------------------------------------------------


def load_calibration(spec: str, model: Model) -> list[Feeds]:
    """The batches that `spec` names, checked against the model's inputs.

    `FILE.npz` holds one array for each input, by name. Arrays of the input's rank are one batch, or as many
    as fit where the model fixes axis 0; arrays with one more axis are a stack of batches along axis 0.
    `FOLDER` stands for all .npz files in it, by name. `MODULE:FUNCTION` is called without arguments and
    yields feeds; the current folder is searched for it, too.

    Raises `PruneoptError` that says which input is wrong, what is expected and what was found.
    """
    feeds = [_checked(batch, model, origin) for origin, batch in _read(spec, model)]
    if not feeds:
        raise PruneoptError(f"calibration data {spec!r} is empty; give at least one batch")
    return feeds


def _read(spec: str, model: Model) -> Iterator[tuple[str, Feeds]]:
    """(where it is from, batch) of all that `spec` names."""
    path = Path(spec)
    if path.is_dir() or path.suffix == ".npz":
        for file in sorted(path.glob("*.npz")) if path.is_dir() else [path]:
            arrays = _npz(file)
            _check_names(arrays, model, str(file))
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
        _check_names(arrays, model, spec)
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


def _check_names(arrays: Feeds, model: Model, origin: str) -> None:
    names = [tensor.name for tensor in model.inputs]
    for name in arrays:
        if name not in names:
            raise PruneoptError(
                f"{origin}: the model has no input {name!r}; its inputs are {', '.join(names)}"
            )
    for name in names:
        if name not in arrays:
            raise PruneoptError(f"{origin}: there is no array for input {name!r}")


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
    if count <= 1 or len(counts) < len(arrays) or set(counts.values()) != {int(count)}:
        yield arrays
        return
    pieces = {name: np.split(array, int(count)) for name, array in arrays.items()}
    yield from ({name: piece[i] for name, piece in pieces.items()} for i in range(int(count)))


def _fixes_batch(tensor: gs.Variable, array: Array) -> bool:
    return bool(tensor.shape) and array.ndim > 0 and not _is_dynamic(tensor.shape[0])


def _checked(feeds: Feeds, model: Model, origin: str) -> Feeds:
    """The feeds as the model takes them; raises where type, rank or size of one is not the input's."""
    sizes: Sizes = {}
    for tensor in model.inputs:
        array = feeds[tensor.name]
        dtype, shape = _dtype(tensor), tensor.shape
        if not _fits_type(array.dtype, dtype) or (
            shape is not None and not _fits_shape(array.shape, tensor, sizes)
        ):
            wanted = [sizes.get(_key(tensor, axis), size) for axis, size in enumerate(shape or ())]
            raise PruneoptError(
                f"{origin}: input {tensor.name!r} should be {dtype} {_list(wanted)}, "
                f"but is {array.dtype} {_list(array.shape)}"
            )
    return {tensor.name: feeds[tensor.name].astype(_dtype(tensor), copy=False) for tensor in model.inputs}


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
        size == (sizes.setdefault(_key(tensor, axis), size) if _is_dynamic(wanted) else wanted)
        for axis, (size, wanted) in enumerate(zip(found, tensor.shape, strict=True))
    )


def _list(sizes: Iterable[int | str | None]) -> str:
    return f"[{', '.join('?' if size is None else str(size) for size in sizes)}]"
