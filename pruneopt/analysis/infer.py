"""Applies the rule table to a whole graph: one pass in order, then ties between shared weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

import onnx_graphsurgeon as gs

from pruneopt.analysis.axes import Axis, Kind, Reason, find, freeze, is_frozen
from pruneopt.analysis.bodies import closed_bodies, graphs_of, has_body, nodes_of
from pruneopt.analysis.divided import divisors
from pruneopt.analysis.observe import Observation, derived_tensors
from pruneopt.analysis.op import Axes, Op, Use
from pruneopt.analysis.positions import follow
from pruneopt.analysis.rules import find_rule
from pruneopt.analysis.unify import Clash, unify
from pruneopt.analysis.witness import Witness
from pruneopt.arrays import Array
from pruneopt.model import Model, values


@dataclass(frozen=True, eq=False)
class ConstantUse:
    """One constant at one input of one node: its own axes, so that accidental sharing ties nothing.

    Attributes:
        weight: the op contracts over it or looks rows up in it, so that copies would cost parameters.
    """

    constant: gs.Constant
    node: gs.Node
    slot: int
    axes: Axes
    weight: bool


@dataclass
class Analysis:
    """All that is known about a graph's axes.

    Attributes:
        model: the analysed model; nodes are keyed by `id`.
        axes: axes of each variable by name.
        uses: every use of a constant of known shape.
        contractions: dimensions that a node sums over.
        statistics: dimensions that a statistic runs over.
        witnesses: attributes and inputs that hold sizes.
        macs: per node the axes whose sizes multiply to a number of multiply-accumulates.
        pointers: of variables that hold positions along an axis, that axis.
        chosen: axes with the number of entries that are chosen from them by value.
        restated: of tensors whose values change with the size of an axis, while what is made of them does not
            (the root inside a norm that keeps its divisor), that axis.
    """

    model: Model
    seen: Observation
    axes: dict[str, Axes] = field(default_factory=dict)
    uses: list[ConstantUse] = field(default_factory=list)
    contractions: list[Use] = field(default_factory=list)
    statistics: list[Use] = field(default_factory=list)
    witnesses: list[Witness] = field(default_factory=list)
    macs: list[tuple[gs.Node, tuple[Axis, ...]]] = field(default_factory=list)
    pointers: dict[str, Axis] = field(default_factory=dict)
    chosen: list[tuple[Axis, int]] = field(default_factory=list)
    restated: dict[str, Axis] = field(default_factory=dict)


def analyse(model: Model, seen: Observation, keep: tuple[str, ...] = (), free_ends: bool = False) -> Analysis:
    """Find out which axes of `model` must shrink together.

    Args:
        model: its main graph, and the bodies of If, Loop and Scan where `seen` knows their tensors.
        seen: sizes and values observed on `model` itself.
        keep: glob patterns of tensor names no axis of which may change.
        free_ends: the model's inputs and outputs may change, too.
    """
    return _Inference(model, seen, keep, free_ends).run()


class _Inference:
    def __init__(self, model: Model, seen: Observation, keep: tuple[str, ...], free_ends: bool) -> None:
        self.seen = seen
        self.keep = keep
        self.free_ends = free_ends
        self.weights: set[str] = set()
        self.result = Analysis(model, seen)
        self.closed = closed_bodies(model.graph, seen.shapes)
        self.nodes = list(nodes_of(model.graph, self.closed))
        self.opsets = {domain: model.opset(domain) for domain in {n.domain or "" for n in self.nodes}}

    def run(self) -> Analysis:
        graph = self.result.model.graph
        for tensor in [] if self.free_ends else graph.inputs:
            self._freeze(self._variable(tensor), f"input '{tensor.name}' of the model")
        for node in self.nodes:
            self._apply(node)
        for tensor in [] if self.free_ends else graph.outputs:
            self._freeze(self._variable(tensor), f"output '{tensor.name}' of the model")
        for tensor in self._captured():
            self._freeze(self._variable(tensor), f"'{tensor.name}' is used inside a control-flow body")
        self._keep_positions()
        self._keep_named()
        self._follow_weights()
        self._tie()
        self.result.witnesses += divisors(self.nodes, self.result.axes, self.seen.runs)
        for axis, _ in self.result.chosen:
            if find(axis).kind is not Kind.ATOM:
                freeze(axis, Reason("entries of it are chosen together with others"))
        return self.result

    def _apply(self, node: gs.Node) -> None:
        inputs = [self._input(node, slot) for slot in range(len(node.inputs))]
        outputs = [self._variable(t) for t in node.outputs]
        constants = [self._known(t) for t in node.inputs]
        pointers = self.result.pointers
        followed = {slot: pointers[t.name] for slot, t in enumerate(node.inputs) if t.name in pointers}
        opset = self.opsets[node.domain or ""]
        op = Op(node, inputs, outputs, constants, opset, self.seen.runs, self._variable, followed)
        rule = find_rule(node, op.opset)
        ends = [*zip(node.inputs, inputs, strict=True), *zip(node.outputs, outputs, strict=True)]
        unknown = any(axes is None and tensor.name for tensor, axes in ends)
        if has_body(node) and all(id(body) in self.closed for body in node.subgraphs()):
            op.freeze_all("its bodies could not be looked into")
        elif rule is None or unknown:
            op.freeze_all("has no rule" if rule is None else "works on tensors of unknown shape")
        else:
            rule(op)
        follow(op)
        self._collect(op)

    def _collect(self, op: Op) -> None:
        result = self.result
        result.contractions += op.contractions
        result.statistics += op.statistics
        result.witnesses += op.witnesses
        result.macs += [(op.node, axes) for axes in op.macs]
        result.chosen += op.chosen
        result.restated |= op.restated
        result.pointers |= {op.node.outputs[out].name: axis for out, axis in op.points.items()}
        self.weights.update(op.node.inputs[slot].name for slot in op.weights)
        for slot, tensor in enumerate(op.node.inputs):
            axes = op.inputs[slot]
            if isinstance(tensor, gs.Constant) and axes is not None:
                result.uses.append(ConstantUse(tensor, op.node, slot, axes, slot in op.weights))

    def _input(self, node: gs.Node, slot: int) -> Axes | None:
        tensor = node.inputs[slot]
        if isinstance(tensor, gs.Constant):
            return [Axis((int(n),) * self.seen.runs) for n in tensor.shape]
        return self._variable(tensor)

    def _variable(self, tensor: gs.Tensor) -> Axes | None:
        if isinstance(tensor, gs.Constant):
            return [Axis((int(n),) * self.seen.runs) for n in tensor.shape]
        shape = self.seen.shapes.get(tensor.name)
        if not tensor.name or shape is None:
            return None
        return self.result.axes.setdefault(tensor.name, [Axis(size) for size in shape])

    def _known(self, tensor: gs.Tensor) -> Array | None:
        if isinstance(tensor, gs.Constant):
            return values(tensor)
        return self.seen.static.get(tensor.name)

    def _freeze(self, axes: Axes | None, text: str) -> None:
        for axis in axes or []:
            freeze(axis, Reason(text))

    def _captured(self) -> Iterator[gs.Tensor]:
        """Variables that are known, and that bodies read which could not be looked into."""
        for node in self.nodes:
            for body in (body for body in node.subgraphs() if id(body) in self.closed):
                read = (t for inner in nodes_of(body) for t in inner.inputs)
                ends = (t for each in graphs_of(body) for t in each.outputs)
                for tensor in (*read, *ends):
                    if isinstance(tensor, gs.Variable) and tensor.name in self.result.axes:
                        yield tensor

    def _keep_positions(self) -> None:
        """Positions that leave the graph or a body are values to whoever gets them."""
        graph = self.result.model.graph
        ends = [t for body in graphs_of(graph) for t in body.outputs]
        for tensor in (*ends, *self._captured()):
            if tensor.name in self.result.pointers:
                freeze(self.result.pointers[tensor.name], Reason("positions along it are values"))

    def _keep_named(self) -> None:
        for name, axes in self._named():
            if any(fnmatchcase(name, pattern) for pattern in self.keep):
                self._freeze(axes, f"'{name}' is kept as asked")

    def _named(self) -> Iterator[tuple[str, Axes]]:
        yield from self.result.axes.items()
        for use in self.result.uses:
            yield use.constant.name, use.axes
            yield use.node.name, use.axes

    def _follow_weights(self) -> None:
        """What a weight is computed from (dequantised, scaled, transposed) is a weight, too."""
        computed = derived_tensors(self.result.model.graph)
        sources: set[int] = set()
        for node in reversed(self.nodes):
            if any(t.name in self.weights for t in node.outputs) and all(
                t.name in computed for t in node.outputs
            ):
                sources.add(id(node))
                self.weights.update(t.name for t in node.inputs)
        self.result.uses = [
            replace(use, weight=True) if id(use.node) in sources else use for use in self.result.uses
        ]

    def _tie(self) -> None:
        """A weight used twice keeps one copy: its uses shrink together."""
        by_constant: dict[int, list[ConstantUse]] = {}
        for use in self.result.uses:
            by_constant.setdefault(id(use.constant), []).append(use)
        for uses in by_constant.values():
            if len(uses) > 1 and len(uses[0].axes) > 1 and any(u.weight for u in uses):
                for other in uses[1:]:
                    _tie_axes(uses[0].axes, other.axes)


def _tie_axes(a: Axes, b: Axes) -> None:
    for x, y in zip(a, b, strict=True):
        try:
            unify(x, y)
        except Clash:  # the copies shrink apart; the rewrite makes one each
            continue


__all__ = ["Analysis", "ConstantUse", "analyse", "is_frozen"]
