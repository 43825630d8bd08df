"""Reductions and pooling."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from pruneopt.analysis.axes import Axis, couple
from pruneopt.analysis.op import Op
from pruneopt.analysis.rules import pattern, rule
from pruneopt.analysis.witness import Scaled
from pruneopt.model import values

REDUCTIONS = "L1 L2 LogSum LogSumExp Max Mean Min Prod Sum SumSquare".split()
MEANS = ("ReduceMean", "GlobalAveragePool")
SUMS = ("ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2")  # a removed entry is an entry of zero


@rule(*(f"Reduce{name}" for name in REDUCTIONS))
def reduce(op: Op) -> None:
    """The reduced dimensions go (or become 1); sums are contractions, the rest are statistics.

    A sum is coupled all the same: norms are written with sums, too.
    """
    data, out = op.axes(0), op.result()
    axes = op.value("axes", 1)
    if axes is None and op.present(1):
        op.freeze_all("reduced along computed axes")
        return
    if axes is None and op.attr("noop_with_empty_axes", 0):
        op.equal_all(data, out)
        return
    reduced = {a % len(data) for a in axes or range(len(data))}
    kept = [i for i in range(len(data)) if i not in reduced]
    op.equal_all([data[i] for i in kept], [out[i] for i in kept] if op.attr("keepdims", 1) else out)
    _take_together(op, reduced)


def _take_together(op: Op, reduced: set[int]) -> None:
    """These dimensions go into one number; a sum contracts them, anything else is a statistic."""
    data = op.axes(0)
    for dim in reduced:
        alone = all(i == dim or set(data[i].size) == {1} for i in reduced)
        mean = op.node.op in MEANS and alone and only_scales(op, dim)
        if mean:  # a removed entry counts as zero in a mean over all
            _keep_divisor(op, data[dim])
        if op.node.op in SUMS or mean:
            op.contract(0, dim)
            couple(data[dim], op.reason(f"{op.node.op} runs over it"))
        else:
            op.statistic(0, dim, f"{op.node.op} runs over it")


def _keep_divisor(op: Op, axis: Axis) -> None:
    """Where epsilon and gain are at hand they make up for the smaller mean, and runtimes still know the norm.

    x / sqrt(S/d + e) * g = x / sqrt(S/k + e d/k) * g sqrt(d/k)
    """
    add = _reader(op.node, "Add")
    root = _reader(add, "Sqrt")
    inverse = _reader(root, "Reciprocal") or _reader(root, "Div", slot=1)
    scaled = _reader(inverse, "Mul")
    if inverse is not None and inverse.op == "Div" and _wide(op, inverse.outputs[0], -1):
        scaled = inverse
    cast = _reader(scaled, "Cast")
    gain = _reader(cast or scaled, "Mul")
    epsilon, slot = _constant(add), _constant(gain)
    if (
        add is None
        or gain is None
        or epsilon is None
        or slot is None
        or values(add.inputs[epsilon]).size != 1
        or not all(_is_precise(t) for t in (add.inputs[epsilon], gain.inputs[slot]))
    ):
        op.scaled(None, axis, 1.0)
        return
    op.witnesses.append(Scaled(add, epsilon, axis, -1.0))
    op.witnesses.append(Scaled(gain, slot, axis, -0.5))
    between = (op.node, add, root, inverse, scaled, cast)
    op.restated |= {node.outputs[0].name: axis for node in between if node is not None}


def _reader(node: gs.Node | None, kind: str, slot: int | None = None) -> gs.Node | None:
    """The one node that reads a node's output, if it is of this kind and reads it there."""
    readers = node.outputs[0].outputs if node is not None else []
    if node is None or len(readers) != 1 or readers[0].op != kind:
        return None
    found: gs.Node = readers[0]
    return found if slot is None or found.inputs[slot] is node.outputs[0] else None


def _is_precise(constant: gs.Constant) -> bool:
    """Whether a scaled constant is rounded to no less than float32: half a gain's digits would be heard."""
    return str(constant.dtype) in ("float32", "float64")


def _constant(node: gs.Node | None) -> int | None:
    inputs = node.inputs if node is not None else []
    return next((i for i, t in enumerate(inputs) if isinstance(t, gs.Constant)), None)


ON_THE_WAY = set("Add Sub Mul Div Pow Sqrt Reciprocal Cast Max Clip Identity Abs".split())


def only_scales(op: Op, dim: int) -> bool:
    """Whether a mean of squares does nothing but divide: then it is the norm of an RMSNorm.

    A mean that is subtracted, or taken of what a mean was subtracted from, is a LayerNorm's: it must be the
    mean of what is kept.
    """
    back = dim - len(op.axes(0))
    return bool(op.attr("keepdims", 1)) and not _centred(op, back) and _divides(op, op.node.outputs[0], back)


def _wide(op: Op, tensor: gs.Tensor, back: int) -> bool:
    """Whether a tensor has more than one entry along the dimension that is `back` from the right."""
    axes = op.axes_of(tensor) or []
    return len(axes) >= -back and set(axes[back].size) != {1}


def _centred(op: Op, back: int) -> bool:
    tensor = op.node.inputs[0]
    while tensor.inputs and tensor.inputs[0].op in ("Mul", "Pow", "Cast", "Abs", "Identity"):
        tensor = tensor.inputs[0].inputs[0]
    maker = tensor.inputs[0] if tensor.inputs else None
    if maker is None or maker.op not in ("Sub", "Add"):
        return False
    return not all(_wide(op, t, back) for t in maker.inputs)


def _divides(op: Op, tensor: gs.Tensor, back: int) -> bool:
    """Whether all that comes of the mean ends as a factor of something wide."""
    if not tensor.outputs:
        return False
    for reader in tensor.outputs:
        if reader.op not in ON_THE_WAY:
            return False
        if _wide(op, reader.outputs[0], back):
            if reader.op not in ("Mul", "Div"):
                return False
        elif not _divides(op, reader.outputs[0], back):
            return False
    return True


pattern("b c * -> b c *", "AveragePool", "LpPool")


@rule("GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool")
def global_pool(op: Op) -> None:
    """A reduction of all dimensions but two; exporters write means over channels with it, too."""
    data, out = op.axes(0), op.result()
    op.equal_all(data[:2], out[:2])
    _take_together(op, set(range(2, len(data))))


@rule("MaxPool")
def max_pool(op: Op) -> None:
    """`b c * -> b c *`; the second output counts positions through all channels."""
    op.relate("b c * -> b c *, b c *")
    if len(op.outputs) > 1 and op.outputs[1] is not None:
        op.freeze(op.outputs[1], "positions are counted through all dimensions")
