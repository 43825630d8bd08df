"""The masked original: full size, with every removed entry zeroed where it is contracted.

Where a statistic runs over a removed entry there is no neutral value to put there; such a node works on
the kept entries alone, and its result is spread out again (removed places repeat a kept one; what consumes
them is masked). Independent of `shrink` but for those nodes: all shapes are the original's.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from pruneopt.analysis.axes import Axis, find
from pruneopt.analysis.bodies import graphs_of
from pruneopt.analysis.infer import Analysis
from pruneopt.analysis.masks import Mask, Masks, mask_of, touched
from pruneopt.analysis.op import Use
from pruneopt.arrays import Array, Feeds
from pruneopt.model import Model, values
from pruneopt.passes.rewriting.names import Names
from pruneopt.passes.rewriting.shrink import compress, twins
from pruneopt.passes.rewriting.witnesses import WitnessWriter


@dataclass(frozen=True)
class Masked:
    """The claim that `shrink(analysis, masks)` equals the masked original.

    Attributes:
        analysis: of the model that was shrunk.
        masks: one keep-mask per atom.
        start: the model that this one was turned from, without loss, before it was shrunk; itself by default.
        repaired: what has been made of the shrunk model so far and will be asked for again, by the way to do it.
    """

    analysis: Analysis
    masks: Masks
    start: Model | None = None
    repaired: dict[Hashable, Model] = field(default_factory=dict, compare=False, repr=False)

    def references(self) -> Iterator[tuple[Model, Feeds]]:
        """The masked original for every observed input size; one model serves all where no mask depends on it."""
        once = None if self.moves() else _Masking(self.analysis, self.masks, 0).model()
        for run, feeds in enumerate(self.analysis.seen.feeds):
            yield once or _Masking(self.analysis, self.masks, run).model(), feeds

    def moves(self) -> bool:
        """Whether a masked dimension has a dynamic factor."""
        analysis = self.analysis
        nodes = {id(u.node): u.node for u in analysis.statistics if touched(u.axis, self.masks)}
        inside = [
            a for n in nodes.values() for t in (*n.inputs, *n.outputs) for a in analysis.axes.get(t.name, [])
        ]
        masked = [*inside, *(u.axis for u in analysis.contractions)]
        return any(touched(a, self.masks) and not find(a).static for a in masked)

    def count(self) -> int:
        """Number of axes that lose entries."""
        return len(self.masks)

    def kept(self, name: str, array: Array, run: int) -> Array | None:
        """The kept entries of an inner tensor; None for shape arithmetic, which the rewrite may change."""
        axes = self.analysis.axes.get(name)
        if axes is None or name in self.analysis.seen.values:
            return None
        if name in self.analysis.restated and touched(self.analysis.restated[name], self.masks):
            return None
        pointed = self.analysis.pointers.get(name)
        if pointed is not None and touched(pointed, self.masks):  # positions among all -> among the kept
            array = (np.cumsum(mask_of(pointed, self.masks, run)) - 1)[array].astype(array.dtype)
        return compress(array, [mask_of(axis, self.masks, run) for axis in axes])


class _Masking:
    def __init__(self, analysis: Analysis, masks: Masks, run: int) -> None:
        self.analysis = analysis
        self.masks = masks
        self.run = run
        self.copy = analysis.model.copy()
        self.twin = twins(analysis.model, self.copy)
        self.before: dict[int, list[gs.Node]] = {}
        self.after: dict[int, list[gs.Node]] = {}
        self.names = Names(self.copy.graph)

    def model(self) -> Model:
        local = self._statistic_nodes()
        for node in local.values():
            self._on_kept_entries(node)
        for uses in self._contracted(local):
            self._zero(uses)
        self._insert()
        return self.copy

    def _statistic_nodes(self) -> dict[int, gs.Node]:
        uses = (u for u in self.analysis.statistics if touched(u.axis, self.masks))
        return {id(u.node): u.node for u in uses}

    def _contracted(self, local: dict[int, gs.Node]) -> Iterator[list[Use]]:
        """Removed contractions by node and operand; a product is masked in one operand only."""
        found: dict[tuple[int, str], dict[int, list[Use]]] = {}
        for use in self.analysis.contractions:
            if touched(use.axis, self.masks) and id(use.node) not in local:
                found.setdefault((id(use.node), use.label), {}).setdefault(use.slot, []).append(use)
        for slots in found.values():
            yield min(
                slots.values(), key=lambda uses: isinstance(uses[0].node.inputs[uses[0].slot], gs.Constant)
            )

    def _zero(self, uses: list[Use]) -> None:
        """x -> 0 where removed, along each contracted dimension, at this operand of this node only.

        By choice, not by a product: a removed entry may be no number (0 / 0 under a norm of its own).
        """
        node, slot = uses[0].node, uses[0].slot
        twin = self.twin[id(node)]
        rank = self._rank(node, slot)
        for use in uses:
            keep = mask_of(use.axis, self.masks, self.run)
            shape = [-1 if d == use.dim else 1 for d in range(rank)]
            if use.zero >= 0:
                twin.inputs[slot] = self._at_zero_point(keep.reshape(shape), twin, use)
                continue
            zero = self._like(np.zeros((), np.float32), twin.inputs[slot], node)
            kept = [self._constant(keep.reshape(shape)), twin.inputs[slot], zero]
            twin.inputs[slot] = self._node("Where", kept, self.before, node)

    def _at_zero_point(self, keep: Mask, twin: gs.Node, use: Use) -> gs.Tensor:
        """x -> x where kept, else the zero point: what a quantised operand holds in place of 0."""
        data = twin.inputs[use.slot]
        zero = twin.inputs[use.zero] if use.zero < len(twin.inputs) and twin.inputs[use.zero].name else None
        if isinstance(data, gs.Constant) and (zero is None or isinstance(zero, gs.Constant)):
            array = values(data)
            at = np.zeros((), array.dtype) if zero is None else values(zero)
            return self._constant(np.where(keep, array, at))
        wide, at_zero = (  # Where is not implemented for all integer types
            self._constant(np.zeros((), np.int32))
            if tensor is None
            else self._node("Cast", [tensor], self.before, use.node, to=int(onnx.TensorProto.INT32))
            for tensor in (data, zero)
        )
        masked = self._node("Where", [self._constant(keep), wide, at_zero], self.before, use.node)
        if isinstance(zero, gs.Constant):
            kind = onnx.helper.np_dtype_to_tensor_dtype(values(zero).dtype)
            return self._node("Cast", [masked], self.before, use.node, to=int(kind))
        return self._node("CastLike", [masked, data], self.before, use.node)

    def _rank(self, node: gs.Node, slot: int) -> int:
        tensor = node.inputs[slot]
        return len(tensor.shape) if isinstance(tensor, gs.Constant) else len(self.analysis.axes[tensor.name])

    def _like(self, value: Array, tensor: gs.Tensor, node: gs.Node) -> gs.Tensor:
        if isinstance(tensor, gs.Constant):
            return self._constant(value.astype(values(tensor).dtype))
        if self.analysis.model.opset() < 15:
            return self._constant(value)
        return self._node("CastLike", [self._constant(value), tensor], self.before, node)

    def _on_kept_entries(self, node: gs.Node) -> None:
        """op(x) -> spread(op'(take(x))), with the constants and witnesses of the shrunk op."""
        twin = self.twin[id(node)]
        for slot, tensor in enumerate(node.inputs):
            axes = self._axes(node, slot)
            keeps = [mask_of(a, self.masks, self.run) for a in axes]
            if isinstance(tensor, gs.Constant):
                twin.inputs[slot] = self._constant(compress(values(tensor), keeps))
                continue
            for dim, keep in self._cut(axes):
                places = self._constant(np.flatnonzero(keep))
                twin.inputs[slot] = self._node(
                    "Gather", [twin.inputs[slot], places], self.before, node, axis=dim
                )
        writer = WitnessWriter(self.copy, self.analysis, self.masks, self.names)
        for witness in self.analysis.witnesses:
            if witness.node is node:
                writer.write(witness, twin)
        for out, original in enumerate(node.outputs):
            self._spread(node, out, self.analysis.axes.get(original.name, []))

    def _axes(self, node: gs.Node, slot: int) -> Sequence[Axis]:
        tensor = node.inputs[slot]
        if not isinstance(tensor, gs.Constant):
            return self.analysis.axes.get(tensor.name, [])
        return next((u.axes for u in self.analysis.uses if u.node is node and u.slot == slot), [])

    def _cut(self, axes: Sequence[Axis]) -> Iterator[tuple[int, Mask]]:
        for dim, axis in enumerate(axes):
            if touched(axis, self.masks):
                yield dim, mask_of(axis, self.masks, self.run)

    def _spread(self, node: gs.Node, out: int, axes: Sequence[Axis]) -> None:
        twin = self.twin[id(node)]
        cuts: list[tuple[int | None, Array]] = [
            (dim, np.maximum(np.cumsum(keep) - 1, 0)) for dim, keep in self._cut(axes)
        ]
        target = twin.outputs[out]
        pointed = self.analysis.pointers.get(target.name)
        if pointed is not None and touched(pointed, self.masks):  # positions among the kept -> among all
            cuts.append((None, np.flatnonzero(mask_of(pointed, self.masks, self.run))))
        if not cuts:
            return
        made = twin.outputs[out] = gs.Variable(f"{target.name}//kept")
        for i, (dim, places) in enumerate(cuts):
            inputs = [made, self._constant(places)] if dim is not None else [self._constant(places), made]
            output = target if i == len(cuts) - 1 else None
            made = self._node("Gather", inputs, self.after, node, output=output, axis=dim or 0)

    def _constant(self, value: Array) -> gs.Constant:
        array = np.ascontiguousarray(value).reshape(np.shape(value))  # a scalar stays one
        return gs.Constant(self.names.new("pruneopt_mask"), array)

    def _node(
        self,
        op: str,
        inputs: list[gs.Tensor],
        where: dict[int, list[gs.Node]],
        node: gs.Node,
        output: gs.Variable | None = None,
        **attrs: int,
    ) -> gs.Variable:
        name = self.names.new("pruneopt_mask")
        out = output if output is not None else gs.Variable(name)
        where.setdefault(id(self.twin[id(node)]), []).append(gs.Node(op, name, attrs, inputs, [out]))
        return out

    def _insert(self) -> None:
        """Put the new nodes around the old ones, in order."""
        for graph in graphs_of(self.copy.graph):
            whole: list[gs.Node] = []
            for node in graph.nodes:
                whole += [*self.before.get(id(node), []), node, *self.after.get(id(node), [])]
            graph.nodes = whole
