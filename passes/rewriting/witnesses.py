"""Sets sizes and positions in a graph after its axes have shrunk."""

from __future__ import annotations

from functools import reduce
from math import prod
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.analysis.axes import Axis, Kind, atoms, factors, find
from pruneopt.analysis.bodies import graphs_of
from pruneopt.analysis.infer import Analysis
from pruneopt.analysis.masks import Masks, mask_of, size_of, touched
from pruneopt.analysis.tokens import same
from pruneopt.analysis.witness import Entry, Fixed, Indices, Place, Scaled, Sizes, Style, Witness
from pruneopt.arrays import Array
from pruneopt.errors import PruneoptError
from pruneopt.model import Model, values
from pruneopt.passes.rewriting.names import Names


class WitnessWriter:
    """Writes witnesses into the nodes of `model`, a copy of the observed one."""

    def __init__(self, model: Model, analysis: Analysis, masks: Masks, names: Names) -> None:
        self.model = model
        self.analysis = analysis
        self.seen = analysis.seen
        self.masks = masks
        self.kept = {atom: int(mask.sum()) for atom, mask in masks.items()}
        self.names = names

    def write(self, witness: Witness, node: gs.Node) -> None:
        """Set the witness's place on `node`, the twin of the node it names."""
        if isinstance(witness, Indices):
            self._indices(witness, node)
        elif isinstance(witness, Fixed):
            node.attrs[witness.place] = witness.value
        elif isinstance(witness, Scaled):
            self._scale(witness, node)
        else:
            self._sizes(witness, node)

    def _scale(self, witness: Scaled, node: gs.Node) -> None:
        factor = (size_of(witness.axis, self.kept) / witness.axis.size[0]) ** witness.power
        place = witness.place
        if isinstance(place, str):
            node.attrs[place] = node.attrs.get(place, witness.default) * factor
        elif place is None:
            out = node.outputs[0]
            inner = node.outputs[0] = gs.Variable(self.names.new(f"{out.name}_kept"), out.dtype)
            self._multiply(inner, factor, node, out, after=True)
        elif isinstance(node.inputs[place], gs.Constant):
            constant = node.inputs[place]
            scaled = np.asarray(values(constant).astype(np.float64) * factor).astype(values(constant).dtype)
            own = len(constant.outputs) == 1  # then the name is free, and the user's
            name = constant.name if own else self.names.new(f"{constant.name}_scaled")
            node.inputs[place] = gs.Constant(name, scaled)
        else:
            scaled = gs.Variable(
                self.names.new(f"{node.inputs[place].name}_scaled"), node.inputs[place].dtype
            )
            self._multiply(node.inputs[place], factor, node, scaled)
            node.inputs[place] = scaled

    def _multiply(
        self, tensor: gs.Tensor, factor: float, node: gs.Node, out: gs.Variable, after: bool = False
    ) -> None:
        """out = tensor * factor, before or after `node`, in the tensor's type."""
        typed = isinstance(tensor.dtype, np.dtype)
        times: gs.Tensor = gs.Constant(
            self.names.new("pruneopt_factor"), np.array(factor, tensor.dtype if typed else np.float32)
        )
        made = []
        if not typed and self.model.opset() >= 15:
            like = gs.Variable(self.names.new("pruneopt_factor"))
            made.append(gs.Node("CastLike", like.name, {}, [times, tensor], [like]))
            times = like
        made.append(gs.Node("Mul", self.names.new(f"{out.name}_scaled"), {}, [tensor, times], [out]))
        home, at = self._place(node)
        home.nodes[at + after : at + after] = made

    def _place(self, node: gs.Node) -> tuple[gs.Graph, int]:
        """The graph or body that holds a node, and where."""
        graphs = graphs_of(self.model.graph)
        return next((graph, i) for graph in graphs for i, n in enumerate(graph.nodes) if n is node)

    def _indices(self, witness: Indices, node: gs.Node) -> None:
        keep = mask_of(witness.axis, self.masks)
        old = np.asarray(self._static(node, witness.place))
        places = old % keep.size
        moved = (np.cumsum(keep) - 1)[places][keep[places]]
        self._put(node, witness.place, moved.astype(old.dtype))

    def _sizes(self, witness: Sizes, node: gs.Node) -> None:
        sizes = [self._size(entry) for entry in witness.entries]
        if witness.instead_of:
            node.attrs.pop(witness.instead_of, None)
        if isinstance(witness.place, str):
            whole = [self._literal(s, node) for s in sizes]
            node.attrs[witness.place] = whole[0] if witness.scalar else whole
            return
        if witness.style is Style.EXPAND:
            sizes = self._broadcast(node, sizes)
        if witness.style is Style.RESHAPE:
            target = self._inferred(witness, node, sizes)
            if target is not None:
                self._put(node, witness.place, np.array(target, np.int64))
                return
        if all(len(set(s)) == 1 for s in sizes):
            self._put(node, witness.place, np.array([s[0] for s in sizes], np.int64))
        else:
            node.inputs[witness.place] = self._mixed(witness, node, sizes)

    def _new_size(self, axis: Axis) -> tuple[int, ...]:
        return tuple(size_of(axis, self.kept, run) for run in range(self.seen.runs))

    def _is_fixed(self, entry: Entry) -> bool:
        """Whether no dynamic atom is in it: two runs may agree by chance."""
        return isinstance(entry, int) or all(a.static for axis in entry for a in atoms(axis))

    def _size(self, entry: Entry) -> tuple[int, ...]:
        if isinstance(entry, int):
            return (entry,) * self.seen.runs
        sizes = [self._new_size(axis) for axis in entry]
        return tuple(sum(s[run] for s in sizes) for run in range(self.seen.runs))

    def _literal(self, size: tuple[int, ...], node: gs.Node) -> int:
        if len(set(size)) > 1:
            raise PruneoptError(f"{node.op} '{node.name}': an attribute would have to hold a dynamic size")
        return size[0]

    def _inferred(self, witness: Sizes, node: gs.Node, sizes: list[tuple[int, ...]]) -> list[int] | None:
        """A Reshape target of literals, 0 for a dynamic size copied from the input, at most one -1."""
        data = self._data_sizes(node)
        target = []
        for i, size in enumerate(sizes):
            copied = (
                data is not None and i < len(data) and data[i] == size and self._unchanged(witness.entries[i])
            )
            target.append(size[0] if len(set(size)) == 1 else 0 if copied else -1)
        if target.count(-1) > 1:
            return None
        if 0 in target:
            node.attrs.pop("allowzero", None)
        return target

    def _broadcast(self, node: gs.Node, sizes: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """1 where the data had the whole size before; what is left of it, it still has."""
        data, out = self._data_sizes(node) or (), self.seen.shapes[node.outputs[0].name]
        padded = ((),) * (len(out) - len(data)) + data
        return [(1,) if old == whole else new for old, whole, new in zip(padded, out, sizes, strict=True)]

    def _data_sizes(self, node: gs.Node) -> tuple[tuple[int, ...], ...] | None:
        data = node.inputs[0]
        if isinstance(data, gs.Constant):
            return tuple((int(n),) * self.seen.runs for n in data.shape)
        return self.seen.shapes.get(data.name)

    def _unchanged(self, entry: Entry) -> bool:
        return isinstance(entry, int) or not any(touched(a, self.masks) for a in entry)

    def _mixed(self, witness: Sizes, node: gs.Node, sizes: list[tuple[int, ...]]) -> gs.Tensor:
        """A shape of which some entries are dynamic, each from a tensor that has it as a dimension.

        What made the old shape may have counted what is gone, or not. It serves where nothing else tells an
        entry that stays as it was; the proof runs it.
        """
        assert isinstance(witness.place, int)
        seen = self.seen.values.get(node.inputs[witness.place].name, (np.zeros(0),))[0]
        inferred = set(np.flatnonzero(seen == -1).tolist()) if witness.style is Style.RESHAPE else set()
        pieces = []
        for i, (entry, size) in enumerate(zip(witness.entries, sizes, strict=True)):
            if i in inferred or isinstance(entry, int) or len(set(size)) == 1:
                pieces.append(self._constant(np.array([-1 if i in inferred else size[0]], np.int64)))
                continue
            measured = self._total([self._measure(axis, node) for axis in entry], "Add", node)
            pieces.append(self._as_before(witness, i, node) if measured is None else measured)
        return self._node("Concat", pieces, node, {"axis": 0})

    def _as_before(self, witness: Sizes, i: int, node: gs.Node) -> gs.Tensor:
        """Entry `i` of the shape that was there, shape [1]."""
        assert isinstance(witness.place, int)
        old = node.inputs[witness.place]
        if not self._unchanged(witness.entries[i]) or np.ndim(self.seen.values[old.name][0]) != 1:
            raise PruneoptError(
                f"{node.op} '{node.name}': its target's entry {i} is not known where it is needed"
            )
        return self._node("Gather", [old, self._constant(np.array([i], np.int64))], node, {"axis": 0})

    def _measure(self, axis: Axis, node: gs.Node) -> gs.Tensor | None:
        """The size of an axis when the model runs, shape [1]; None where no tensor tells it."""
        axis = find(axis)
        place = self._place_of(axis, node)
        if place is not None:
            return self._dimension(*place, node)
        if self._is_fixed((axis,)):
            return self._constant(np.array([self._new_size(axis)[0]], np.int64))
        if axis.kind is Kind.ATOM:
            return self._as_factor(axis, node)
        parts = [self._measure(item, node) for item in axis.items]
        return self._total(parts, "Add" if axis.kind is Kind.CONCAT else "Mul", node)

    def _as_factor(self, atom: Axis, node: gs.Node) -> gs.Tensor | None:
        """A size as the share of a dimension whose other factors are fixed."""
        for tensor in self._before(node):
            for dim, own in enumerate(self.analysis.axes.get(tensor.name, [])):
                rest = [f for f in factors(own) if find(f) is not atom]
                if len(rest) == len(factors(own)) - 1 and self._is_fixed(tuple(rest)):
                    whole = self._dimension(tensor, dim, node)
                    times = prod(self._new_size(f)[0] for f in rest)
                    return self._node("Div", [whole, self._constant(np.array([times], np.int64))], node, {})
        return None

    def _dimension(self, tensor: gs.Tensor, dim: int, node: gs.Node) -> gs.Tensor:
        shape = self._node("Shape", [tensor], node, {})
        return self._node("Gather", [shape, self._constant(np.array([dim], np.int64))], node, {"axis": 0})

    def _total(self, parts: list[gs.Tensor | None], op: str, node: gs.Node) -> gs.Tensor | None:
        """All parts added or multiplied; None where one is."""
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return None
        return reduce(lambda total, part: self._node(op, [total, part], node, {}), known)

    def _place_of(self, axis: Axis, node: gs.Node) -> tuple[gs.Tensor, int] | None:
        """A tensor that is there before `node` and has exactly this axis, and the dimension."""
        for tensor in self._before(node):
            for dim, own in enumerate(self.analysis.axes.get(tensor.name, [])):
                if same(own, axis):
                    return tensor, dim
        return None

    def _before(self, node: gs.Node) -> list[gs.Tensor]:
        """What a node reads, then the inputs of its graph or body, then what the nodes in front of it read."""
        home, at = self._place(node)
        read = (t for n in (node, *home.nodes[:at]) for t in n.inputs)
        found = [*node.inputs, *home.inputs, *read]
        return list({id(t): t for t in found if isinstance(t, gs.Variable) and t.name}.values())

    def _static(self, node: gs.Node, place: Place) -> Any:
        if isinstance(place, str):
            return node.attrs[place]
        tensor = node.inputs[place]
        return values(tensor) if isinstance(tensor, gs.Constant) else self.seen.static[tensor.name]

    def _put(self, node: gs.Node, place: Place, value: Array) -> None:
        if isinstance(place, str):
            node.attrs[place] = value.tolist()
            return
        while len(node.inputs) <= place:
            node.inputs.append(gs.Variable.empty())
        if isinstance(node.inputs[place], gs.Constant):
            value = value.astype(node.inputs[place].dtype)
            if values(node.inputs[place]).ndim == 0:
                value = value.reshape(())
        node.inputs[place] = self._constant(value)

    def _constant(self, value: Array) -> gs.Constant:
        return gs.Constant(self.names.new("pruneopt_size"), value)

    def _node(self, op: str, inputs: list[gs.Tensor], before: gs.Node, attrs: dict[str, Any]) -> gs.Tensor:
        out = gs.Variable(self.names.new("pruneopt_size"), np.dtype(np.int64))
        home, at = self._place(before)
        home.nodes.insert(at, gs.Node(op, out.name, attrs, list(inputs), [out]))
        return out
