"""Where a graph multiplies by a weight that is mostly zeros: MatMul, Gemm and Conv, with what can be fused in.

Depthwise convolutions beside such a layer are found, too, zeros or not: run by the runtime, they would have the image
put into another order before and back after. What a kernel cannot compute is left dense, with the reason. Known
sizes are read off `sizes`: tensor name -> its size in each of a few runs; a size is known where the runs agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.backends.tvm.functions import recognised
from pruneopt.backends.tvm.layer import Image, Layer
from pruneopt.backends.tvm.packing import Floats
from pruneopt.model import values

MOST = 0.75  # share of non-zeros from which on no kernel can gain
FEWEST = 1 << 10  # multiplications for a row or an image below which a call costs more than it saves
Sizes = Mapping[str, Sequence[Sequence[int]]]


class Left(Exception):
    """Why a node stays dense."""


@dataclass
class Site:
    """One sparse layer of a graph.

    Attributes:
        node: the node that multiplies.
        layer: what a kernel has to compute.
        weight: float32 [groups, outputs, inputs].
        bias: [groups * outputs], or None.
        x, y: the tensors that the kernel reads and makes.
        fused: the nodes that it replaces, `node` first.
        n: rows or images in each of the runs.
    """

    node: gs.Node
    layer: Layer
    weight: Floats
    bias: Floats | None
    x: gs.Tensor
    y: gs.Tensor
    fused: list[gs.Node]
    n: tuple[int, ...]

    @property
    def density(self) -> float:
        """Share of the weight's entries that are not zero."""
        return np.count_nonzero(self.weight) / self.weight.size

    @property
    def sparse(self) -> bool:
        """Whether there are so many zeros that a kernel may gain by them."""
        return self.density <= MOST


def find(graph: gs.Graph, sizes: Sizes) -> tuple[list[Site], dict[str, str]]:
    """The sparse layers of the main graph in its order, and for others with zeros why they stay: node -> reason."""
    found, left = [], {}
    for node in graph.nodes:
        if node.op not in READERS or node.domain not in (None, "", "ai.onnx"):
            continue
        weight = node.inputs[1] if len(node.inputs) > 1 else None
        if not isinstance(weight, gs.Constant) or weight.dtype != np.float32:
            continue
        array = np.asarray(values(weight))
        depthwise = node.op == "Conv" and array.ndim > 2 and array.shape[1] == 1
        if not depthwise and np.count_nonzero(array) > MOST * array.size:
            continue
        if array.size * _pixels(node, sizes) < FEWEST:
            continue
        try:
            site = READERS[node.op](node, array, sizes)
            _fuse(site, graph)
            found.append(site)
        except Left as reason:
            left[node.name or node.outputs[0].name] = str(reason)
    made, read = ({id(getattr(site, end)) for site in found if site.sparse} for end in ("y", "x"))
    found = [site for site in found if site.sparse or id(site.x) in made or id(site.y) in read]
    return found, left


def _pixels(node: gs.Node, sizes: Sizes) -> int:
    """Positions of a convolution's output, as far as they are known; 1 of a product."""
    shapes = sizes.get(node.outputs[0].name, ())
    return int(np.prod(shapes[-1][2:])) if node.op == "Conv" and len(shapes) else 1


def _matmul(node: gs.Node, array: Floats, sizes: Sizes) -> Site:
    if array.ndim != 2:
        raise Left("the weight is a stack of matrices")
    return _rows(node, np.ascontiguousarray(array.T), None, sizes)


def _gemm(node: gs.Node, array: Floats, sizes: Sizes) -> Site:
    attrs = node.attrs
    if attrs.get("transA", 0):
        raise Left("its input is transposed")
    weight = np.ascontiguousarray(array if attrs.get("transB", 0) else array.T) * np.float32(
        attrs.get("alpha", 1.0)
    )
    bias = None
    if len(node.inputs) > 2 and not node.inputs[2].is_empty():
        bias = _vector(node.inputs[2], len(weight), 1)
        if bias is None:
            raise Left("its bias is not one number for each output")
        bias = bias * np.float32(attrs.get("beta", 1.0))
    return _rows(node, weight, bias, sizes)


def _rows(node: gs.Node, weight: Floats, bias: Floats | None, sizes: Sizes) -> Site:
    outputs, inputs = weight.shape
    x, y = node.inputs[0], node.outputs[0]
    n = tuple(int(np.prod(shape[:-1])) for shape in sizes.get(x.name, ()))
    return Site(node, Layer(inputs, outputs), weight[None], bias, x, y, [node], n)


def _conv(node: gs.Node, array: Floats, sizes: Sizes) -> Site:
    x, y = node.inputs[0], node.outputs[0]
    groups = int(node.attrs.get("group", 1))
    if array.ndim != 4:
        raise Left("it is not a convolution over two dimensions")
    before, after = sizes.get(x.name, ()), sizes.get(y.name, ())
    spatial = {(tuple(a[2:]), tuple(b[2:])) for a, b in zip(before, after, strict=True)}
    if len(spatial) != 1:
        raise Left("the height and width of its input are not fixed")
    (size, out) = spatial.pop()
    image = Image(
        _pair(size),
        _pair(out),
        _pair(array.shape[2:]),
        _pair(node.attrs.get("strides", (1, 1))),
        _padding(node, size, out, array.shape[2:]),
        _pair(node.attrs.get("dilations", (1, 1))),
    )
    bias = None
    if len(node.inputs) > 2 and not node.inputs[2].is_empty():
        bias = _vector(node.inputs[2], len(array), 1)
        if bias is None:
            raise Left("its bias is not constant")
    weight = np.ascontiguousarray(array.reshape(groups, len(array) // groups, -1))
    layer = Layer(weight.shape[2], weight.shape[1], groups, image)
    return Site(node, layer, weight, bias, x, y, [node], tuple(int(shape[0]) for shape in before))


def _padding(
    node: gs.Node, size: Sequence[int], out: Sequence[int], kernel: Sequence[int]
) -> tuple[int, int]:
    """Padding at the top and on the left; what is at the other ends follows from the sizes."""
    auto = node.attrs.get("auto_pad", "NOTSET")
    if auto in ("NOTSET", b"NOTSET", ""):
        return _pair(node.attrs.get("pads", (0, 0, 0, 0))[:2])
    if auto == "VALID":
        return 0, 0
    strides, dilations = (_pair(node.attrs.get(name, (1, 1))) for name in ("strides", "dilations"))
    total = [max(0, (out[i] - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1 - size[i]) for i in (0, 1)]
    return _pair([each // 2 if auto == "SAME_UPPER" else -(-each // 2) for each in total])


def _pair(numbers: Sequence[int]) -> tuple[int, int]:
    return int(numbers[0]), int(numbers[1])


READERS = {"MatMul": _matmul, "Gemm": _gemm, "Conv": _conv}


def _vector(tensor: Any, size: int, rank: int) -> Floats | None:
    """A float32 constant that is one number for each of `size` outputs along the last of its dimensions."""
    if not isinstance(tensor, gs.Constant) or tensor.dtype != np.float32:
        return None
    array = np.asarray(values(tensor))
    if array.ndim > rank or array.size not in (1, size) or (array.ndim and array.size != array.shape[-1]):
        return None
    return np.broadcast_to(array.reshape(-1), (size,)).astype(np.float32)


def _fuse(site: Site, graph: gs.Graph) -> None:
    """Takes the addition of a bias, and an activation, into the site."""
    follower = _only_consumer(site.y, graph)
    if follower is not None and follower.op == "Add" and site.layer.image is None and site.bias is None:
        other = (
            next(t for t in follower.inputs if t is not site.y)
            if len(set(map(id, follower.inputs))) == 2
            else None
        )
        bias = _vector(other, site.layer.outputs, 1)
        if bias is not None:
            site.bias = bias
            _take(site, follower)
            follower = _only_consumer(site.y, graph)
    act = None if follower is None or follower.inputs[0] is not site.y else _activation(follower)
    if follower is not None and act is not None:
        site.layer = replace(site.layer, act=act)
        _take(site, follower)
    elif (found := recognised(site.y, graph)) is not None:
        nodes, name = found
        site.layer = replace(site.layer, act=(name, ()))
        for node in nodes:
            _take(site, node)


def _take(site: Site, node: gs.Node) -> None:
    site.fused.append(node)
    site.y = node.outputs[0]


def _only_consumer(tensor: gs.Tensor, graph: gs.Graph) -> gs.Node | None:
    """The node that alone reads a tensor, in the same graph; None where others do, or where it is returned."""
    if any(tensor is each for each in graph.outputs) or len(tensor.outputs) != 1:
        return None
    node = tensor.outputs[0]
    return node if any(node is each for each in graph.nodes) else None


def _activation(node: gs.Node) -> tuple[str, tuple[float, ...]] | None:
    """An activation that kernels know, with its parameters."""
    attrs = node.attrs
    if node.op in ("Relu", "HardSwish"):
        return node.op, ()
    if node.op == "LeakyRelu":
        return node.op, (float(attrs.get("alpha", 0.01)),)
    if node.op == "HardSigmoid":
        return node.op, (float(attrs.get("alpha", 0.2)), float(attrs.get("beta", 0.5)))
    if node.op == "Clip":
        limits = [_limit(node, 1, "min", -3.4e38), _limit(node, 2, "max", 3.4e38)]
        return None if None in limits else ("Clip", (float(limits[0] or 0), float(limits[1] or 0)))
    return None


def _limit(node: gs.Node, place: int, name: str, default: float) -> float | None:
    """A limit of Clip, an attribute or an input; None where it is not constant."""
    if len(node.inputs) <= place or node.inputs[place].is_empty():
        return float(node.attrs.get(name, default))
    tensor = node.inputs[place]
    return float(np.asarray(values(tensor)).reshape(-1)[0]) if isinstance(tensor, gs.Constant) else None
