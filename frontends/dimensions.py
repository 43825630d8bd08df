"""The dynamic dimensions of a model's inputs.

The size of a dynamic dimension goes by a key: its name in the model (`batch`), or `INPUT:AXIS` where it has
none.
"""

import onnx_graphsurgeon as gs

from pruneopt.arrays import Array
from pruneopt.model import Model

Feeds = dict[str, Array]
Sizes = dict[str, int]
Place = tuple[gs.Variable, int]
Pair = tuple[int, int]

# Names that exporters give to dimensions they know nothing about: equal names do not mean equal sizes.
UNNAMED = {"", "?", "-1", "None"}


def dynamic_dims(model: Model) -> dict[str, list[tuple[str, int]]]:
    """Key of each dynamic dimension -> the (input name, axis) pairs that have it."""
    return {key: [(tensor.name, axis) for tensor, axis in places] for key, places in places_of(model).items()}


def places_of(model: Model) -> dict[str, list[Place]]:
    found: dict[str, list[Place]] = {}
    for tensor in model.inputs:
        for axis, size in enumerate(tensor.shape or ()):
            if is_dynamic(size):
                found.setdefault(key_of(tensor, axis), []).append((tensor, axis))
    return found


def is_dynamic(size: int | str | None) -> bool:
    return not isinstance(size, int) or size <= 0


def key_of(tensor: gs.Variable, axis: int) -> str:
    size = tensor.shape[axis]
    return size if isinstance(size, str) and size not in UNNAMED else f"{tensor.name}:{axis}"
