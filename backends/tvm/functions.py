"""Which activation the nodes behind a tensor compute: read off their values, however an exporter wrote it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.model import values

MOST = 8  # nodes
CLOSE = 1e-6
POINTS = np.linspace(-8, 8, 641)
Values = Any

_erf = np.vectorize(math.erf)


def gelu(x: Values) -> Values:
    """x times the normal distribution function of x."""
    return x * 0.5 * (1 + _erf(x / math.sqrt(2)))


def hard_sigmoid(x: Values, alpha: float = 0.2, beta: float = 0.5) -> Values:
    """A line from zero to one."""
    return np.clip(alpha * x + beta, 0, 1)


def hard_swish(x: Values) -> Values:
    """x times a line from zero at -3 to one at 3."""
    return x * hard_sigmoid(x, 1 / 6)


# What can be evaluated, by inputs and attributes, and what a kernel can compute.
EVALUATED: dict[str, Callable[..., Values]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Erf": _erf,
    "Gelu": gelu,
    "HardSigmoid": hard_sigmoid,
}
KNOWN: dict[str, Callable[[Values], Values]] = {"Gelu": gelu, "HardSwish": hard_swish}


def recognised(tensor: gs.Tensor, graph: gs.Graph) -> tuple[list[gs.Node], str] | None:
    """The nodes that make an activation of `tensor`, the one that gives it last, and its name; None where none does.

    Nothing else may read what these nodes read or make between them.
    """
    known = {id(tensor): POINTS}
    region: list[gs.Node] = []
    tensors = [tensor]
    while len(region) < MOST:
        node = next(_ready(tensors, region, known), None)
        if node is None or not any(node is each for each in graph.nodes):
            return None
        region.append(node)
        made = node.outputs[0]
        attributes = {name: value for name, value in node.attrs.items() if name != "approximate"}
        known[id(made)] = EVALUATED[node.op](*(_value(each, known) for each in node.inputs), **attributes)
        tensors.append(made)
        if _closed(tensors, region, graph, made):
            for name, function in KNOWN.items():
                if np.allclose(known[id(made)], function(POINTS), rtol=0, atol=CLOSE):
                    return region, name
    return None


def _ready(tensors: list[gs.Tensor], region: list[gs.Node], known: dict[int, Values]) -> Iterator[gs.Node]:
    """Nodes outside the region all of whose inputs are known."""
    for tensor in tensors:
        for node in tensor.outputs:
            if node.op not in EVALUATED or any(node is each for each in region):
                continue
            if node.attrs.get("approximate", "none") not in ("none", b"none"):
                continue
            if all(_value(each, known) is not None for each in node.inputs):
                yield node


def _value(tensor: gs.Tensor, known: dict[int, Values]) -> Values | None:
    """What a tensor is at each of the points: known, or one constant number."""
    if isinstance(tensor, gs.Constant):
        array = np.asarray(values(tensor))
        return array.reshape(()).astype(float) if array.size == 1 and array.dtype.kind == "f" else None
    return known.get(id(tensor))


def _closed(tensors: list[gs.Tensor], region: list[gs.Node], graph: gs.Graph, end: gs.Tensor) -> bool:
    """Whether nothing outside of the region reads any of the tensors but the end."""
    for tensor in tensors:
        if tensor is end:
            continue
        if any(tensor is each for each in graph.outputs):
            return False
        if any(all(reader is not node for node in region) for reader in tensor.outputs):
            return False
    return not any(reader is node for reader in end.outputs for node in region)
