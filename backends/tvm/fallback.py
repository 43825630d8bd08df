"""What a kernel computes, in ONNX's own ops: a function in the model for runtimes that have no library of kernels.

ONNX Runtime prefers a registered op to a function of its name. Where there is none, the function unpacks the
weight, which is done once, when the model is loaded, and multiplies densely. The steps are `packing.pack`
backwards: entry -> segment and mask -> block, input and place of its values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from pruneopt.backends.tvm.compiler import Plan
from pruneopt.backends.tvm.packing import Order, order
from pruneopt.errors import PruneoptError

LEAST_OPSET = 16  # ScatterND that adds
LEAST_IR = 8  # functions
INPUTS = ("x", "values", "offsets", "starts", "bias")


class Body:
    """The nodes of a function, one after the other; every method returns the name of what it makes."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def constant(self, array: Any, kind: Any = np.int64) -> str:
        return self.op("Constant", value=numpy_helper.from_array(np.asarray(array, kind)))

    def part(self, tensor: str, start: int, stop: int, axis: int = 0) -> str:
        """`tensor[start:stop]` along an axis."""
        return self.op("Slice", tensor, *(self.constant([each]) for each in (start, stop, axis)))

    def shaped(self, tensor: str, *shape: int) -> str:
        return self.op("Reshape", tensor, self.constant(shape))

    def divided(self, tensor: str, by: int) -> tuple[str, str]:
        """Quotient and remainder of numbers that are not negative."""
        divisor = self.constant(by)
        return self.op("Div", tensor, divisor), self.op("Mod", tensor, divisor)


def function(domain: str, plan: Plan, opset: int) -> onnx.FunctionProto:
    """The function of a plan's name. Raises PruneoptError where the model's opset is too old to unpack."""
    if opset < LEAST_OPSET:
        raise PruneoptError(
            f"a fallback needs opset {LEAST_OPSET}, the model has {opset}: convert it with onnx.version_converter"
        )
    body = Body()
    weight = _weight(body, plan)
    _multiplied(body, plan, weight, opset)
    last = body.nodes[-1]
    last.output[0] = "y"
    return helper.make_function(
        domain, plan.name, INPUTS, ["y"], body.nodes, [helper.make_opsetid("", opset)]
    )


def _weight(body: Body, plan: Plan) -> str:
    """The dense weight [groups, outputs, inputs] from the packed one."""
    layer, cut = plan.layer, order(plan.layer, plan.schedule)
    starts = body.op("Cast", "starts", to=onnx.TensorProto.INT64)
    begin = body.part(starts, 0, cut.segments * cut.masks)
    count = body.op("Sub", body.part(starts, 1, cut.segments * cut.masks + 1), begin)
    # The loop of each entry is the number of loops that have begun after the first: one mark for each, added up.
    # Ops whose output's size depends on values would not be computed when the model is loaded.
    size = body.part(body.op("Shape", "offsets"), 0, 1)
    zeros = body.op("ConstantOfShape", body.op("Add", size, body.constant([1])), value=_tensor(0, np.int64))
    begun = body.part(begin, 1, cut.segments * cut.masks)
    ones = body.constant(np.ones(cut.segments * cut.masks - 1))
    marks = body.op("ScatterND", zeros, body.shaped(begun, -1, 1), ones, reduction="add")
    loop = body.op("Slice", body.op("CumSum", marks, body.constant(0)), body.constant([0]), size)
    entry = body.op("Range", body.constant(0), body.op("Squeeze", size), body.constant(1))
    number = body.op("Sub", entry, body.op("Gather", begin, loop))
    segment, mask = body.divided(loop, cut.masks)
    if plan.schedule.sliced:
        segment = body.shaped(body.op("Tile", body.shaped(segment, -1, 1), body.constant([1, cut.block])), -1)
    numbers = body.part(starts, cut.numbers, cut.numbers + cut.segments)
    block = _block(body, cut, segment, body.op("Gather", numbers, segment))
    column = _looked_up(body, cut) if plan.schedule.sliced else _column(body, plan, cut, segment)
    places = [block, column]
    if plan.schedule.sliced:
        entries = body.shaped("values", -1)
        slots = body.op("Range", body.constant(0), body.op("Size", "offsets"), body.constant(1))
        places.append(body.divided(slots, cut.block)[1])
    else:
        entries = _entries(body, plan, cut, count, loop, number, mask)
    where = body.op("Concat", *(body.shaped(each, -1, 1) for each in places), axis=1)
    shape = body.constant([cut.groups * cut.blocks, layer.inputs, cut.block])
    zeros = body.op("ConstantOfShape", shape, value=_tensor(0, np.float32))
    placed = body.op("ScatterND", zeros, where, entries, reduction="add")
    made = body.op("Transpose", placed, perm=[0, 2, 1])
    whole = body.shaped(made, cut.groups, cut.blocks * cut.block, layer.inputs)
    return body.part(whole, 0, layer.outputs, 1)


def _tensor(value: float, kind: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array([value], kind))


def _block(body: Body, cut: Order, segment: str, number: str) -> str:
    """The block of each entry, counted over all groups."""
    stretch, _ = body.divided(segment, cut.span)
    group, span = body.divided(body.divided(stretch, cut.stretches)[0], cut.spans)
    first = body.op("Mul", span, body.constant(cut.span))
    before = body.op("Mul", group, body.constant(cut.blocks))
    return body.op("Add", body.op("Add", before, first), number)


def _column(body: Body, plan: Plan, cut: Order, segment: str) -> str:
    """The input of each entry, from the place where the kernel holds it."""
    taps = plan.layer.taps
    places = plan.places() - plan.places()[:taps].min()
    step = int(places[taps] - places[0]) if len(places) > taps else int(places.max()) + 1
    offset = body.shaped(body.op("Cast", "offsets", to=onnx.TensorProto.INT64), -1)
    offset = body.op("Sub", offset, body.constant(plan.places()[:taps].min()))
    channel, left = body.divided(offset, step)
    same = body.op("Equal", body.shaped(left, -1, 1), body.constant(places[:taps]))
    tap = body.op("ArgMax", body.op("Cast", same, to=onnx.TensorProto.INT32), axis=1, keepdims=0)
    within = body.op("Add", body.op("Mul", channel, body.constant(taps)), tap)
    stretch = body.divided(body.divided(segment, cut.span)[0], cut.stretches)[1]
    return body.op("Add", body.op("Mul", stretch, body.constant(cut.depth)), within)


def _looked_up(body: Body, cut: Order) -> str:
    """The input of each entry of a sliced schedule, from its place in a window."""
    starts, offsets = (body.op("Cast", each, to=onnx.TensorProto.INT64) for each in ("starts", "offsets"))
    windows = body.op("Slice", starts, body.constant([cut.firsts]), body.op("Shape", starts))
    return body.shaped(body.op("Add", offsets, body.shaped(windows, -1, 1)), -1)


def _entries(body: Body, plan: Plan, cut: Order, count: str, loop: str, number: str, mask: str) -> str:
    """The values [entries, block], zeros where a mask has no output."""
    present, width, rank = tables(plan, cut)
    own = body.op("Tile", body.constant(present.sum(axis=1)), body.constant([cut.segments]))
    total = body.op("Mul", count, own)
    first = body.op("CumSum", total, body.constant(0), exclusive=1)
    at, strip, each = (
        body.shaped(body.op("Gather", tensor, index), -1, 1)
        for tensor, index in ((first, loop), (body.constant(width), mask), (count, loop))
    )
    ranks = body.op("Gather", body.constant(rank), mask)
    before = body.op("Mul", body.op("Mul", body.op("Div", ranks, strip), each), strip)
    own_place = body.op(
        "Add", body.op("Mul", body.shaped(number, -1, 1), strip), body.op("Mod", ranks, strip)
    )
    place = body.op("Add", body.op("Add", at, before), own_place)
    values = body.op("Gather", body.shaped("values", -1), place)
    return body.op("Mul", values, body.op("Gather", body.constant(present, np.float32), mask))


def tables(plan: Plan, cut: Order) -> tuple[Any, Any, Any]:
    """For each mask: which outputs [masks, block] have values, in strips how wide [masks], as the how-manieth."""
    if not plan.schedule.mixed:
        same = np.ones((cut.masks, 1), np.int64)
        return same.repeat(cut.block, 1), same[:, 0] * plan.schedule.strip, same * np.arange(cut.block)
    present = (np.arange(1, cut.masks + 1)[:, None] >> np.arange(cut.block)) & 1
    return present, present.sum(axis=1), (present.cumsum(axis=1) - 1).clip(0)


def _multiplied(body: Body, plan: Plan, weight: str, opset: int) -> None:
    """The dense product, bias and activation; the last node makes y."""
    layer, image = plan.layer, plan.layer.image
    padded = body.shaped("bias", layer.groups, -1)
    bias = body.shaped(body.part(padded, 0, layer.outputs, 1), -1)
    if image is None:
        turned = body.op("Transpose", body.shaped(weight, layer.outputs, layer.inputs), perm=[1, 0])
        y = body.op("Add", body.op("MatMul", "x", turned), bias)
    else:
        kernel = body.shaped(weight, layer.groups * layer.outputs, layer.channels, *image.kernel)
        reach = [(image.kernel[i] - 1) * image.dilations[i] + 1 for i in (0, 1)]
        ends = [
            max(0, (image.out[i] - 1) * image.strides[i] + reach[i] - image.size[i] - image.padding[i])
            for i in (0, 1)
        ]
        y = body.op(
            "Conv",
            "x",
            kernel,
            bias,
            group=layer.groups,
            pads=[*image.padding, *ends],
            strides=image.strides,
            dilations=image.dilations,
        )
    _activated(body, y, layer.act, opset)


def _activated(body: Body, y: str, act: tuple[str, Sequence[float]], opset: int) -> None:
    name, numbers = act
    if name == "Clip":
        body.op("Clip", y, *(body.constant(each, np.float32) for each in numbers))
    elif name == "LeakyRelu":
        body.op("LeakyRelu", y, alpha=numbers[0])
    elif name == "HardSigmoid":
        body.op("HardSigmoid", y, alpha=numbers[0], beta=numbers[1])
    elif name == "HardSwish" and opset < 14:
        body.op("Mul", y, body.op("HardSigmoid", y, alpha=1 / 6, beta=0.5))
    elif name == "Gelu":
        half, root, one = (body.constant(each, np.float32) for each in (0.5, 2**0.5, 1))
        below = body.op("Add", body.op("Erf", body.op("Div", y, root)), one)
        body.op("Mul", body.op("Mul", y, below), half)
    elif name:
        body.op(name, y)
