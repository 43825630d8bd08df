"""How many places an op leaves of a changed number of them."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from pruneopt.model import values
from pruneopt.passes.rewriting.edits import place_of

POOLS = {"MaxPool", "AveragePool", "LpPool"}
CONVOLUTIONS = {"Conv", "ConvInteger", "QLinearConv", "FusedConv"}
MIXING = POOLS | CONVOLUTIONS | {"ConvTranspose", "Pad", "Resize", "Upsample"}


def is_global(node: gs.Node, old: Sequence[int]) -> bool:
    """Whether a pooling's window is all that there is: spatial sizes `old`, nothing padded."""
    kernel = list(node.attrs.get("kernel_shape", []))
    return node.op in POOLS and kernel == list(old) and not any(node.attrs.get("pads", []))


def places(node: gs.Node, old: Sequence[int], was: Sequence[int], new: Sequence[int]) -> list[int] | None:
    """Spatial sizes of the output for sizes `new` of the input, which `old` ones turned into `was`.

    None where the op has parameters that are not known.
    """
    if node.op in ("Resize", "Upsample"):
        return [round(w * n / o) for o, w, n in zip(old, was, new, strict=True)]
    if node.op == "Pad":
        return [w + n - o for o, w, n in zip(old, was, new, strict=True)]
    if is_global(node, old):
        return list(was)
    kernel = _kernel(node)
    if kernel is None:
        return None
    return [_windowed(node, i, kernel[i], n) for i, n in enumerate(new)]


def _kernel(node: gs.Node) -> list[int] | None:
    if "kernel_shape" in node.attrs:
        return list(node.attrs["kernel_shape"])
    weight = node.inputs[3 if node.op == "QLinearConv" else 1]
    return list(weight.shape[2:]) if isinstance(weight, gs.Constant) else None


def _windowed(node: gs.Node, i: int, kernel: int, n: int) -> int:
    count = len(node.attrs.get("pads", [])) // 2
    stride = _nth(node, "strides", i, 1)
    span = (kernel - 1) * _nth(node, "dilations", i, 1) + 1
    pads = 0 if not count else node.attrs["pads"][i] + node.attrs["pads"][i + count]
    same = str(node.attrs.get("auto_pad", "NOTSET")).startswith("SAME")
    if node.op == "ConvTranspose":
        return stride * n if same else stride * (n - 1) + _nth(node, "output_padding", i, 0) + span - pads
    if same:
        return -(-n // stride)
    whole = (n + pads - span) / stride
    return (-floor(-whole) if node.attrs.get("ceil_mode", 0) else floor(whole)) + 1


def _nth(node: gs.Node, name: str, i: int, default: int) -> int:
    found: Any = node.attrs.get(name) or []
    return int(found[i]) if len(found) else default


def set_windows(
    graph: gs.Graph, nodes: Sequence[tuple[gs.Node, Sequence[int], Sequence[int], Sequence[int]]]
) -> None:
    """Windows over everything and sizes to resize to, set for (node, old sizes, new sizes, new output sizes)."""
    for node, old, new, out in nodes:
        if is_global(node, old):
            node.attrs["kernel_shape"] = list(new)
        elif node.op == "Resize" and len(node.inputs) > 3 and node.inputs[3].name:
            _resize_to(graph, node, np.not_equal(old, new), np.array(out, np.int64))


def _resize_to(
    graph: gs.Graph, node: gs.Node, moved: npt.NDArray[np.bool_], out: npt.NDArray[np.int64]
) -> None:
    """Sizes that changed are written down, others stay what they are or how they are computed."""
    sizes = node.inputs[3]
    if isinstance(sizes, gs.Constant):
        node.inputs[3] = gs.Constant(f"{node.outputs[0].name}_sizes", np.where(moved, out, values(sizes)))
        return
    names = (f"{node.outputs[0].name}_{what}" for what in ("sizes", "moved", "out"))
    made = gs.Variable(next(names), np.dtype(np.int64))
    operands = [gs.Constant(next(names), moved), gs.Constant(next(names), out), sizes]
    place = place_of(graph.nodes, node)
    graph.nodes.insert(place, gs.Node("Where", made.name, {}, operands, [made]))
    node.inputs[3] = made
