"""Models of one node, analysed with free ends: what the golden lines and the law test look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from pruneopt.analysis.axes import Axis, Kind, Size, atoms, factors, find, parts
from pruneopt.analysis.infer import Analysis, analyse
from pruneopt.analysis.observe import Observation
from pruneopt.analysis.op import Axes
from pruneopt.analysis.witness import Fixed, Indices, Scaled, Witness
from pruneopt.errors import PruneoptError
from pruneopt.model import Model

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Operand:
    """An input of the node: its value, and whether it is a constant of the model."""

    value: Array
    constant: bool = True


def x(*shape: int) -> Operand:
    """An activation of random values."""
    return Operand(_random(shape), constant=False)


def w(*shape: int) -> Operand:
    """A constant of random values."""
    return Operand(_random(shape))


def positive(*shape: int) -> Operand:
    """A constant of values between 0.5 and 1.5."""
    return Operand(np.random.default_rng(1).random(shape).astype(np.float32) + np.float32(0.5))


def i(*values: int) -> Operand:
    """A constant vector of integers."""
    return Operand(np.array(values, np.int64))


def c(value: Any, dtype: Any = np.float32) -> Operand:
    """Any constant."""
    return Operand(np.array(value, dtype))


def ids(high: int, *shape: int, dtype: Any = np.int64) -> Operand:
    """An activation of integers in [0, high)."""
    return Operand(np.random.default_rng(2).integers(0, high, shape).astype(dtype), constant=False)


def q(*shape: int, constant: bool = False, dtype: Any = np.uint8) -> Operand:
    """Quantised values, an activation unless said otherwise."""
    info = np.iinfo(dtype)
    return Operand(np.random.default_rng(3).integers(info.min, info.max + 1, shape).astype(dtype), constant)


def _random(shape: tuple[int, ...]) -> Array:
    return np.random.default_rng(len(shape) * 97 + sum(shape)).standard_normal(shape).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Case:
    """One node: what goes in, its attributes, and how many outputs are asked for."""

    op: str
    inputs: tuple[Operand | None, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    outputs: tuple[bool, ...] = (True,)
    domain: str = ""
    opset: int = 21
    exact: bool = True
    note: str = ""

    def __str__(self) -> str:
        attrs = " ".join(f"{k}={v}" for k, v in self.attrs.items())
        name = f"{self.domain}.{self.op}" if self.domain else self.op
        version = f"@{self.opset}" if self.opset != 21 and not self.domain else ""
        return f"{name}{version}({attrs})" + (f" [{self.note}]" if self.note else "")

    @property
    def feeds(self) -> dict[str, Array]:
        """Values of the activations."""
        return {f"x{n}": o.value for n, o in enumerate(self.inputs) if o is not None and not o.constant}

    @cached_property
    def model(self) -> Model:
        """The model; its inputs and outputs have no fixed sizes."""
        proto = self._proto(self.values)
        try:
            return Model.from_proto(proto)
        except PruneoptError:  # ops that runtimes know but ONNX's own checker does not, or no longer
            return Model(gs.import_onnx(proto), _header(proto))

    @cached_property
    def values(self) -> dict[str, Array]:
        """What the node computes."""
        return run(self._proto({}), self.feeds)

    def _proto(self, results: Mapping[str, Array]) -> onnx.ModelProto:
        names = [("" if o is None else f"w{n}" if o.constant else f"x{n}") for n, o in enumerate(self.inputs)]
        outs = [f"y{n}" if wanted else "" for n, wanted in enumerate(self.outputs)]
        node = helper.make_node(self.op, names, outs, name=self.op, domain=self.domain, **self.attrs)
        weights = [
            numpy_helper.from_array(o.value, name)
            for o, name in zip(self.inputs, names, strict=True)
            if o is not None and o.constant
        ]
        inputs = [_value_info(n, v.dtype, [None] * v.ndim) for n, v in self.feeds.items()]
        ends = [
            _value_info(name, results[name].dtype, [None] * results[name].ndim)
            if name in results
            else onnx.ValueInfoProto(name=name)
            for name in outs
            if name
        ]
        graph = helper.make_graph([node], "one", inputs, ends, weights)
        opsets = [helper.make_opsetid("", self.opset)]
        opsets += [helper.make_opsetid(self.domain, 1)] if self.domain else []
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    @cached_property
    def analysis(self) -> Analysis:
        """Its axes; nothing is frozen for being an input or output of the model."""
        tensors = {**self.feeds, **self.values}
        shapes: dict[str, tuple[Size, ...]] = {
            name: tuple((n,) for n in value.shape) for name, value in tensors.items()
        }
        return analyse(self.model, Observation(1, shapes, feeds=(self.feeds,)), free_ends=True)


def _header(proto: onnx.ModelProto) -> onnx.ModelProto:
    header = onnx.ModelProto()
    header.CopyFrom(proto)
    header.ClearField("graph")
    return header


def _value_info(name: str, dtype: Any, shape: list[None]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)


def case(op: str, *inputs: Operand | None, **options: Any) -> Case:
    """A case; `outputs`, `opset`, `domain`, `exact` and `note` are its fields, the rest are attributes."""
    own = {k: options.pop(k) for k in ("opset", "domain", "exact", "note") if k in options}
    wanted = options.pop("outputs", 1)
    outs = (True,) * wanted if isinstance(wanted, int) else tuple(wanted)
    return Case(op, inputs, options, outs, **own)


def run(proto: onnx.ModelProto, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs by name, from the reference evaluator or, where it cannot, from ONNX Runtime."""
    names = [o.name for o in proto.graph.output]
    domain = proto.graph.node[-1].domain
    if domain in ("", "ai.onnx"):
        try:
            with np.errstate(all="ignore"):
                found = ReferenceEvaluator(proto).run(names, dict(feeds))
            return {name: np.asarray(value) for name, value in zip(names, found, strict=True)}
        except Exception:  # not implemented there, or not in this version of the op
            pass
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(None, dict(feeds)), strict=True))


# --- as text ----------------------------------------------------------------------------------------


class Letters:
    """Axes as text, one letter per atom: `(a b)`, `a | b`; `!` is frozen, `~` under a statistic."""

    def __init__(self) -> None:
        self.names: dict[Axis, str] = {}

    def axis(self, axis: Axis) -> str:
        """One axis."""
        axis = find(axis)
        if axis.kind is Kind.CONCAT:
            return " | ".join(self.axis(p) for p in parts(axis))
        if axis.kind is Kind.PRODUCT:
            inner = (
                f"({self.axis(f)})" if find(f).kind is Kind.CONCAT else self.axis(f) for f in factors(axis)
            )
            return f"({' '.join(inner)})" if factors(axis) else "1"
        if set(axis.size) == {1}:
            return "1"
        name = self.names.setdefault(
            axis, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"[len(self.names)]
        )
        return ("~" if axis.coupled else "") + name + ("!" if axis.frozen else "")

    def term(self, axes: Axes | None) -> str:
        """One tensor."""
        return "[" + ", ".join(self.axis(a) for a in axes) + "]" if axes is not None else "-"

    def witness(self, witness: Witness) -> str:
        """One witness."""
        if isinstance(witness, Fixed):
            return f"{witness.place} = {witness.value:.4g}"
        if isinstance(witness, Scaled):
            place = "output" if witness.place is None else witness.place
            return f"{place} *= (new / old {self.axis(witness.axis)}) ** {witness.power:g}"
        if isinstance(witness, Indices):
            return f"{witness.place} <- positions in {self.axis(witness.axis)}"
        entries = (
            str(e)
            if isinstance(e, int)
            else " + ".join(f"({a})" if "|" in a else a for a in map(self.axis, e))
            for e in witness.entries
        )
        return f"{witness.place} <- {', '.join(entries)}"


def golden(case: Case) -> str:
    """`Op(attributes): inputs -> outputs; witnesses`, one line."""
    letters, analysis = Letters(), case.analysis
    constants = {use.slot: use.axes for use in analysis.uses}
    node = analysis.model.graph.nodes[0]
    inputs = [
        letters.term(constants.get(slot, analysis.axes.get(tensor.name)))
        for slot, tensor in enumerate(node.inputs)
    ]
    outputs = [letters.term(analysis.axes.get(tensor.name)) for tensor in node.outputs]
    line = f"{case}: {', '.join(inputs)} -> {', '.join(outputs)}"
    return "; ".join([line, *(letters.witness(witness) for witness in analysis.witnesses)])


def free_atoms(analysis: Analysis, exact: bool) -> list[Axis]:
    """The atoms that may lose entries; `exact`: those no statistic runs over."""
    terms = [*analysis.axes.values(), *(use.axes for use in analysis.uses)]
    found = dict.fromkeys(atom for term in terms for axis in term for atom in atoms(axis))
    barred = (
        {atom for use in analysis.statistics for atom in atoms(use.axis) if atom.coupled} if exact else set()
    )
    return [atom for atom in found if atom.size[0] > 1 and not atom.frozen and atom not in barred]
