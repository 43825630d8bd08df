"""Builds one ONNX graph node by node; every tensor's shape is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import mul
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[Any]
Size = int | str  # a number, or a dynamic size: `N`, `T`, or a multiple of one: `N*4`


@dataclass(frozen=True)
class Tensor:
    """A tensor of the graph under construction."""

    name: str
    shape: tuple[Size, ...]

    def width(self, dim: int) -> int:
        """A static size."""
        size = self.shape[dim]
        if isinstance(size, str):
            raise TypeError(f"dimension {dim} of {self.name} is dynamic")
        return size


class Nodes:
    """Collects nodes, constants, inputs and outputs.

    Attributes:
        random: draws the structure.
        rng: draws the weights.
        opset: version of the standard operators to write.
    """

    def __init__(self, random: Random, opset: int, ir: int) -> None:
        self.random = random
        self.rng = np.random.default_rng(random.randrange(2**20))
        self.opset = opset
        self.ir = ir
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.sources: dict[str, tuple[Tensor, int]] = {}  # dynamic size -> an input that has it, and where
        self.weights: dict[tuple[int, ...], list[Tensor]] = {}
        self.shared: dict[tuple[object, ...], Tensor] = {}
        self._count = 0

    # --- choosing ---------------------------------------------------------------------------------

    def chance(self, share: float) -> bool:
        """True in about `share` of the cases; a shrinker moves towards False."""
        return self.random.randrange(100) >= 100 - round(100 * share)

    def pick(self, options: Sequence[Any]) -> Any:
        """One of them; a shrinker moves towards the first."""
        return options[self.random.randrange(len(options))]

    # --- nodes and ends ---------------------------------------------------------------------------

    def name(self, stem: str) -> str:
        """A new name."""
        self._count += 1
        return f"{stem}_{self._count}"

    def many(
        self, op: str, inputs: Sequence[Tensor | None], shapes: Sequence[Sequence[Size] | None], **attrs: Any
    ) -> list[Tensor]:
        """A node with one output per shape; a shape of None is an output left out."""
        outs = [Tensor(self.name(op.lower()) if s is not None else "", tuple(s or ())) for s in shapes]
        names = ["" if t is None else t.name for t in inputs]
        while names and not names[-1]:
            names.pop()
        domain = attrs.pop("domain", "")
        label = self.name(f"/{op}") if self.chance(0.8) else ""
        given = {k: v for k, v in attrs.items() if v is not None}
        self.nodes.append(helper.make_node(op, names, [t.name for t in outs], label, domain=domain, **given))
        return outs

    def op(
        self, op: str, *inputs: Tensor | None, shape: Sequence[Size] | None = None, **attrs: Any
    ) -> Tensor:
        """A node with one output, by default of the first input's shape."""
        first = inputs[0]
        like = first.shape if first is not None else ()
        return self.many(op, inputs, [like if shape is None else shape], **attrs)[0]

    def input(self, stem: str, shape: Sequence[Size], kind: int = TensorProto.FLOAT) -> Tensor:
        """A graph input."""
        tensor = Tensor(stem, tuple(shape))
        self.inputs.append(helper.make_tensor_value_info(stem, kind, list(shape)))
        for dim, size in enumerate(shape):
            if isinstance(size, str):
                self.sources.setdefault(size, (tensor, dim))
        return tensor

    def output(self, tensor: Tensor, kind: int = TensorProto.FLOAT) -> None:
        """Make a tensor an output of the graph, once."""
        if tensor.name in {o.name for o in self.outputs}:
            return
        shape = [s.replace("*", "x") if isinstance(s, str) else s for s in tensor.shape]
        self.outputs.append(helper.make_tensor_value_info(tensor.name, kind, shape))

    def model(self) -> onnx.ModelProto:
        """The whole model."""
        inputs = list(self.inputs)
        if self.ir < 4:  # then every initializer is an input with a default
            for tensor in self.initializers:
                inputs.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
        graph = helper.make_graph(self.nodes, "fuzz", inputs, self.outputs, self.initializers)
        imports = [helper.make_opsetid("", self.opset)]
        if any(n.domain == "com.microsoft" for n in self.nodes):
            imports.append(helper.make_opsetid("com.microsoft", 1))
        return helper.make_model(graph, ir_version=self.ir, opset_imports=imports)

    def initializer(self, value: Array, stem: str = "w") -> Tensor:
        """A constant that is an initializer, or sometimes a Constant node."""
        tensor = Tensor(self.name(stem), tuple(value.shape))
        proto = numpy_helper.from_array(value, tensor.name)
        if self.chance(0.15):
            self.nodes.append(helper.make_node("Constant", [], [tensor.name], value=proto))
        else:
            self.initializers.append(proto)
        return tensor

    def ints(self, values: Sequence[int] | int) -> Tensor:
        """An int64 constant; equal ones are sometimes one tensor."""
        key = ("ints", tuple(values) if isinstance(values, Sequence) else values)
        if key not in self.shared or self.chance(0.4):
            self.shared[key] = self.initializer(np.array(values, np.int64), "i")
        return self.shared[key]

    def scalar(self, value: float) -> Tensor:
        """A float constant of rank 0 or 1."""
        return self.initializer(np.full(self.pick([(), (1,)]), value, np.float32), "s")


def times(*sizes: Size) -> Size:
    """The product of sizes of which at most one is dynamic."""
    number = reduce(mul, (s for s in sizes if isinstance(s, int)), 1)
    for size in sizes:
        if isinstance(size, str):
            symbol, _, factor = size.partition("*")
            whole = number * int(factor or 1)
            return symbol if whole == 1 else f"{symbol}*{whole}"
    return number
