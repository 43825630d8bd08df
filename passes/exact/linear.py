"""Linear ops with constant weights, rescaled along their output or input channels."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.arrays import Array
from pruneopt.model import values
from pruneopt.passes.rewriting.names import Names


@dataclass(frozen=True)
class Linear:
    """A Conv, ConvTranspose or Gemm whose weight and bias are constants of one type."""

    node: gs.Node

    @property
    def channels(self) -> int:
        """How many come out."""
        shape, attrs = self.node.inputs[1].shape, self.node.attrs
        if self.node.op == "Conv":
            return int(shape[0])
        if self.node.op == "Gemm":
            return int(shape[0 if attrs.get("transB", 0) else 1])
        return int(shape[1]) * int(attrs.get("group", 1))

    @property
    def is_shared(self) -> bool:
        """Whether others read its weight or bias, too."""
        return any(len(t.outputs) > 1 for t in self.node.inputs[1:])

    @property
    def pads(self) -> bool:
        """Whether it may read zeros around its input."""
        attrs = self.node.attrs
        return any(attrs.get("pads", ())) or attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID")

    def fits(self, scales: int, shifts: int, dtype: np.dtype[Any]) -> bool:
        """Whether so many numbers of that type are one for all or one for each output channel."""
        return {scales, shifts} <= {1, self.channels} and self.node.inputs[1].dtype == dtype

    def takes(self, count: int, dtype: np.dtype[Any]) -> bool:
        """Whether a Conv of its own weights can take so many numbers of that type for its input channels."""
        weight = self.node.inputs[1]
        channels = int(weight.shape[1]) * int(self.node.attrs.get("group", 1))
        return count in (1, channels) and weight.dtype == dtype and not self.is_shared

    def rescale_outputs(self, scale: Array, shift: Array, names: Names) -> None:
        """What comes out, times `scale` and plus `shift`, [channels] or [1]."""
        factor = np.broadcast_to(scale, (self.channels,))
        self._set(_along_outputs(self.node, self._weight, factor), self._bias * factor + shift, names)

    def rescale_inputs(self, scale: Array, shift: Array, names: Names) -> None:
        """A Conv makes of x what it made of `scale` (x + `shift`), [input channels] or [1]; where it pads, no shift."""
        weight = self._weight  # [(g o), i, ...]
        groups = self.node.attrs.get("group", 1)
        split = weight.reshape(groups, -1, *weight.shape[1:])
        wide = (groups, 1, weight.shape[1], *[1] * (weight.ndim - 2))
        count = groups * weight.shape[1]
        scaled = split * np.broadcast_to(scale, (count,)).reshape(wide)
        moved = (scaled * np.broadcast_to(shift, (count,)).reshape(wide)).reshape(len(weight), -1).sum(1)
        bias = self._bias + moved if shift.any() else None
        self._set(scaled.reshape(weight.shape), bias, names)

    @property
    def _weight(self) -> Array:
        return np.asarray(values(self.node.inputs[1]).astype(np.float64))

    @property
    def _bias(self) -> Array:
        has = len(self.node.inputs) > 2 and self.node.inputs[2].name
        return np.asarray(values(self.node.inputs[2]).astype(np.float64)) if has else np.zeros(self.channels)

    def _set(self, weight: Array, bias: Array | None, names: Names) -> None:
        data, old, *rest = self.node.inputs
        made = [gs.Constant(names.instead(old, "folded"), weight.astype(old.dtype))]
        if bias is not None and (rest or bias.any()):
            has = bool(rest and rest[0].name)
            name = names.instead(rest[0], "folded") if has else names.new(f"{old.name}_bias")
            made.append(gs.Constant(name, np.broadcast_to(bias, (self.channels,)).astype(old.dtype)))
        elif rest:
            made.append(rest[0])
        self.node.inputs = [data, *made]


def linear_of(node: gs.Node) -> Linear | None:
    """The linear op that a node is; None where it is another, or where its weights are no constants."""
    if node.op not in ("Conv", "ConvTranspose", "Gemm") or node.domain not in (None, "", "ai.onnx"):
        return None
    if node.op == "Gemm" and (node.attrs.get("alpha", 1.0), node.attrs.get("beta", 1.0)) != (1.0, 1.0):
        return None
    weights = [t for t in node.inputs[1:] if t.name]
    if not all(isinstance(t, gs.Constant) for t in weights) or len({str(t.dtype) for t in weights}) != 1:
        return None
    found = Linear(node)
    rows = [tuple(t.shape) for t in weights[1:]]  # of a Gemm a bias may be anything that broadcasts
    return found if all(prod(r) == 1 or (prod(r) == r[-1] == found.channels) for r in rows) else None


def _along_outputs(linear: gs.Node, weight: Array, factor: Array) -> Array:
    """`weight` with each output channel times its factor, wherever the op keeps that dimension."""
    if linear.op == "Conv":  # [(g o), i, ...]
        return np.asarray(weight * factor.reshape(-1, *[1] * (weight.ndim - 1)))
    if linear.op == "Gemm":
        return np.asarray(weight * (factor[:, None] if linear.attrs.get("transB", 0) else factor))
    groups = linear.attrs.get("group", 1)  # ConvTranspose: [(g i), o, ...]
    split = weight.reshape(groups, -1, *weight.shape[1:])
    wide = factor.reshape(groups, 1, -1, *[1] * (weight.ndim - 2))
    return np.asarray((split * wide).reshape(weight.shape))
