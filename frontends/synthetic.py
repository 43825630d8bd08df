"""Feeds drawn from the types of a model's inputs: normal floats, indices within their table, masks of ones."""

from collections.abc import Iterator, Mapping

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.arrays import Array
from pruneopt.errors import PruneoptError
from pruneopt.frontends.dimensions import Feeds, is_dynamic, key_of
from pruneopt.frontends.tensors import element_type, origin_of, readers
from pruneopt.model import Model, values


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
    keys = {axis: key_of(tensor, axis) for axis, size in enumerate(tensor.shape) if is_dynamic(size)}
    for axis, key in keys.items():
        if key not in sizes:
            raise PruneoptError(f"input {tensor.name!r}: no size is given for axis {axis} ({key})")
    return tuple(sizes[keys[axis]] if axis in keys else size for axis, size in enumerate(tensor.shape))


def _draw(tensor: gs.Variable, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    dtype = element_type(tensor)
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
        for node, place in readers(current):
            yield node, place, added
            step = _carried(node, place)
            new = [each for each in node.outputs if step is not None and id(each) not in seen]
            seen.update(map(id, new))
            waiting += [(each, added + (step or 0)) for each in new]


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
    shape = origin_of(node.inputs[table]).shape
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
    origin = origin_of(tensor)
    return values(origin) if isinstance(origin, gs.Constant) else None
