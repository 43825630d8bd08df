"""Scales and shifts of channels, folded into the linear ops beside them; BatchNormalization is one of each.

    L(x) a + b = L'(x)          with W' = a W and bias' = a bias + b along the output channels
    L(a x + b) = L'(x + b / a)  with W' = a W along the input channels; the bias takes b where nothing is padded

Runtimes compute them as passes over the whole image, and put it into another order for them and back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.analysis.axes import Size
from pruneopt.arrays import Array
from pruneopt.model import values
from pruneopt.passes.exact.linear import linear_of
from pruneopt.passes.rewriting.edits import ends_of, only_reader, place_of, read_instead
from pruneopt.passes.rewriting.names import Names

Shapes = dict[str, tuple[Size, ...]]
ARITHMETIC = {"Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Erf", "Tanh", "Reciprocal"}
GATES = {"HardSigmoid", "Sigmoid"}


@dataclass(frozen=True)
class Step:
    """y = scale x + shift, along dimension 1 of x; arrays have the shape [channels] or [1], float64."""

    data: gs.Tensor
    scale: Array
    shift: Array


@dataclass(frozen=True)
class Chain:
    """Steps one after the other, of which nobody else reads anything; `step` is what they come to."""

    nodes: Sequence[gs.Node]
    step: Step
    dtype: np.dtype[Any]

    @property
    def start(self) -> gs.Tensor:
        """What goes in: the chain before may have changed that since."""
        return next(t for t in self.nodes[0].inputs if not isinstance(t, gs.Constant))

    @property
    def end(self) -> gs.Tensor:
        """What comes out."""
        return self.nodes[-1].outputs[0]

    @property
    def shifts(self) -> bool:
        """Whether it is more than a scale."""
        return bool(self.step.shift.any())

    @property
    def is_norm(self) -> bool:
        """Whether BatchNormalization is all it is: that is folded in every type, as everybody does."""
        return all(n.op == "BatchNormalization" for n in self.nodes)

    @property
    def is_fine(self) -> bool:
        """Whether weights have digits to spare for another factor."""
        return self.dtype in (np.float32, np.float64)


def fold_affine(graph: gs.Graph, shapes: Shapes) -> None:
    """Folds chains of steps into the op before them, else into those behind, else into fewer nodes."""
    names = Names(graph)
    ends = ends_of(graph)
    for chain in list(_chains(graph, shapes, ends)):
        inner = chain.is_fine and id(chain.end) not in ends
        if _into_maker(chain, names, ends) or (
            inner and (_into_readers(chain, graph, shapes, names) or _into_fewer(chain, graph, shapes, names))
        ):
            for node in chain.nodes:  # dead now
                node.inputs.clear()


def _chains(graph: gs.Graph, shapes: Shapes, ends: set[int]) -> Iterator[Chain]:
    inside: set[int] = set()
    for node in graph.nodes:
        step = None if id(node) in inside else step_of(node, shapes)
        if step is None:
            continue
        nodes = [node]
        while (reader := only_reader(nodes[-1].outputs[0], ends)) is not None:
            following = step_of(reader, shapes)
            if following is None or following.data is not nodes[-1].outputs[0]:
                break
            step = Step(
                step.data, following.scale * step.scale, following.scale * step.shift + following.shift
            )
            nodes.append(reader)
        inside |= {id(n) for n in nodes}
        yield Chain(nodes, step, next(t.dtype for t in nodes[0].inputs if isinstance(t, gs.Constant)))


def step_of(node: gs.Node, shapes: Shapes) -> Step | None:
    """The scale and shift that a node is; None where it is something else."""
    if node.domain not in (None, "", "ai.onnx") or len(node.outputs) != 1:
        return None
    if node.op == "BatchNormalization":
        return _norm(node)
    if node.op not in ("Add", "Sub", "Mul", "Div") or len(node.inputs) != 2:
        return None
    (first, second), op = node.inputs, node.op
    data, constant = (second, first) if isinstance(first, gs.Constant) else (first, second)
    if isinstance(data, gs.Constant) or not isinstance(constant, gs.Constant):
        return None
    found = _along_channels(constant, shapes.get(data.name, ()))
    if found is None or (constant is first and op in ("Sub", "Div")) or (op == "Div" and not found.all()):
        return None
    one, zero = np.ones(1), np.zeros(1)
    return {
        "Add": Step(data, one, found),
        "Sub": Step(data, one, -found),
        "Mul": Step(data, found, zero),
        "Div": Step(data, 1 / np.where(found == 0, 1, found), zero),
    }[op]


def _norm(node: gs.Node) -> Step | None:
    data, *statistics = node.inputs
    if node.attrs.get("training_mode", 0) or not all(isinstance(t, gs.Constant) for t in statistics):
        return None
    if len({str(t.dtype) for t in statistics}) > 1:
        return None
    scale, shift, mean, variance = (values(t).astype(np.float64) for t in statistics)
    factor = scale / np.sqrt(variance + node.attrs.get("epsilon", 1e-5))
    return Step(data, factor, shift - mean * factor)


def _along_channels(constant: gs.Constant, sizes: tuple[Size, ...]) -> Array | None:
    """A constant that varies along dimension 1 of a tensor of these sizes alone, and does not widen it."""
    shape = [*[1] * (len(sizes) - len(constant.shape)), *constant.shape]
    if len(sizes) < 2 or len(shape) > len(sizes) or constant.dtype.kind != "f":
        return None
    if prod(shape) != shape[1] or shape[1] not in (1, *sizes[1]):
        return None
    return np.asarray(values(constant), np.float64).reshape(-1)


def _into_maker(chain: Chain, names: Names, ends: set[int]) -> bool:
    """The op before takes all of it."""
    maker = linear_of(chain.start.inputs[0]) if chain.start.inputs else None
    if maker is None or len(chain.start.outputs) > 1 or id(chain.start) in ends:
        return False
    if not maker.fits(chain.step.scale.size, chain.step.shift.size, chain.dtype):
        return False
    if not chain.is_norm and (maker.is_shared or not chain.is_fine):
        return False
    result = chain.end
    chain.nodes[-1].outputs.clear()
    maker.rescale_outputs(chain.step.scale, chain.step.shift, names)
    maker.node.outputs[0] = result
    return True


def _into_readers(chain: Chain, graph: gs.Graph, shapes: Shapes, names: Names) -> bool:
    """The convolutions that read it take the scale, and the shift if none of them pads."""
    readers = [linear_of(n) for n in chain.end.outputs]
    convs = [r for r in readers if r is not None and r.node.op == "Conv" and r.node.inputs[0] is chain.end]
    if not convs or len(convs) < len(readers) or not chain.step.scale.all() or _is_part_of_more(chain.start):
        return False
    left = chain.shifts and any(c.pads for c in convs)
    size = max(chain.step.scale.size, chain.step.shift.size)
    if left >= len(chain.nodes) or not all(c.takes(size, chain.dtype) for c in convs):
        return False
    shift = chain.step.shift / chain.step.scale
    for conv in convs:
        conv.rescale_inputs(chain.step.scale, np.zeros(1) if left else shift, names)
    source = chain.start
    if left:
        source = _node("Add", source, shift, chain, graph, shapes, names)
    read_instead(chain.end, source)
    return True


def _into_fewer(chain: Chain, graph: gs.Graph, shapes: Shapes, names: Names) -> bool:
    """A product and a sum do for any number of steps, and neither where they cancel out."""
    scale, shift = chain.step.scale, chain.step.shift
    scales = not np.allclose(scale, 1, rtol=1e-7, atol=0)
    if scales + chain.shifts >= len(chain.nodes):
        return False
    source = chain.start
    if scales:
        source = _node("Mul", source, scale, chain, graph, shapes, names)
    if chain.shifts:
        source = _node("Add", source, shift, chain, graph, shapes, names)
    read_instead(chain.end, source)
    return True


def _is_part_of_more(tensor: gs.Tensor) -> bool:
    """Whether arithmetic makes it that a runtime may know as a whole with its last scale, such as a norm or GELU."""
    maker = tensor.inputs[0] if tensor.inputs else None
    if maker is None or maker.op not in ARITHMETIC:
        return False
    return not any(t.inputs and t.inputs[0].op in GATES for t in maker.inputs)


def _node(
    op: str, data: gs.Tensor, by: Array, chain: Chain, graph: gs.Graph, shapes: Shapes, names: Names
) -> gs.Tensor:
    """A product or sum with numbers along dimension 1, where the chain begins."""
    shape = () if by.size == 1 else (by.size, *[1] * (len(shapes[chain.start.name]) - 2))
    constant = gs.Constant(names.new(f"{chain.end.name}_{op.lower()}"), by.astype(chain.dtype).reshape(shape))
    out = gs.Variable(names.new(f"{chain.end.name}_folded"), chain.dtype)
    node = gs.Node(op, names.new(out.name), {}, [data, constant], [out])
    graph.nodes.insert(place_of(graph.nodes, chain.nodes[0]), node)
    shapes[out.name] = shapes[chain.start.name]
    return out
