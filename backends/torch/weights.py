"""What each constant of a model is in a module: a parameter that learns, a buffer, or a number in the code."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from fnmatch import fnmatchcase
from math import prod

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from pruneopt.backends.torch.table import find
from pruneopt.frontends import extras
from pruneopt.frontends.fx import KIND
from pruneopt.model import Model, values

SMALL = 64  # entries up to which integers are shape arithmetic: they stay on the CPU, out of the state
LARGEST = 1e30  # what is larger is minus infinity in a mask, no weight
FLOATS = {"float16", "float32", "float64", "bfloat16"}


class Role(Enum):
    """What a constant becomes."""

    PARAMETER = "parameter"
    BUFFER = "buffer"
    LITERAL = "literal"


class Roles:
    """The roles of a model's constants; `trainable` are patterns of names that are parameters in any case."""

    def __init__(self, model: Model, trainable: Sequence[str] = ()) -> None:
        self._trainable = trainable
        self._fixed = {id(tensor) for tensor in _fixed(model, model.graph)}

    def of(self, constant: gs.Constant) -> Role:
        """Parameters are weights of floating type; running statistics, scalars and masks are not."""
        floating = str(np.dtype(constant.dtype)) in FLOATS
        if not floating:
            return Role.LITERAL if prod(constant.shape) <= SMALL else Role.BUFFER
        if any(fnmatchcase(constant.name, pattern) for pattern in self._trainable):
            return Role.PARAMETER
        declared = _declared(constant)
        if declared is not None:
            return declared
        learns = id(constant) not in self._fixed and prod(constant.shape) > 1 and _is_plain(constant)
        return Role.PARAMETER if learns else Role.BUFFER


def _declared(constant: gs.Constant) -> Role | None:
    """What the module that the model was made from said."""
    known = extras.of_constant(constant)
    props: Iterable[onnx.StringStringEntryProto] = known.stored.header.metadata_props if known else ()
    return next((Role(p.value) for p in props if p.key == KIND), None)


def _is_plain(constant: gs.Constant) -> bool:
    array = np.asarray(values(constant))
    wide = array.astype(np.float32) if array.dtype.itemsize < 4 else array
    return bool(np.abs(wide).max(initial=0) < LARGEST)


def _fixed(model: Model, graph: gs.Graph) -> Iterable[gs.Tensor]:
    """Inputs whose numbers are no weights, whatever their shape."""
    for node in graph.nodes:
        entry = find(node.domain, node.op, model.opset(node.domain or ""))
        places = entry.fixed if entry else ()
        yield from (node.inputs[place] for place in places if place < len(node.inputs))
        for attribute in node.attrs.values():
            if isinstance(attribute, gs.Graph):
                yield from _fixed(model, attribute)
            elif isinstance(attribute, gs.Constant):
                yield attribute
