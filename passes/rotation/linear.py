"""What nodes do along one atom, as far as linear maps go: for any orthogonal M along it, op(M x) = M op(x)."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_graphsurgeon as gs

from pruneopt.analysis.axes import Axis, atoms, find
from pruneopt.analysis.infer import Analysis, ConstantUse

SUMS = {"Add", "Sub", "Sum", "Concat"}  # linear in all of their inputs together
SCALES = {"Mul", "Div"}  # linear in one input, the first of Div
MOVES = set(
    "Cast Dropout Expand Flatten Gather GatherND Identity Neg ReduceMean ReduceSum Reshape Slice Split Squeeze "
    "Transpose Unsqueeze".split()
)
PRODUCTS = {"Conv", "Gemm", "MatMul"}
UNMOVED = {"Add", "Concat", "Div", "GatherND", "MatMul", "Mul", "ReduceSum", "Sub", "Sum", "Neg"}


class NotLinear(Exception):
    """A node does something else along the atom; the text says what and where."""


class Place:
    """Where one atom is in a graph: the dimension of each tensor and constant that is the atom, whole."""

    def __init__(self, analysis: Analysis, atom: Axis) -> None:
        self.analysis = analysis
        self.atom = find(atom)
        self.uses: dict[tuple[int, int], ConstantUse] = {}
        for use in analysis.uses:
            if any(self.atom in atoms(a) for a in use.axes):
                self.uses[id(use.node), use.slot] = use
        self.summed = {(id(u.node), u.slot) for u in analysis.contractions if find(u.axis) is self.atom}

    def nodes(self) -> Iterator[gs.Node]:
        """The nodes that have the atom at an input or output, in graph order."""
        for node in self.analysis.model.graph.nodes:
            if self.inputs(node) or self.constants(node) or self.outputs(node):
                yield node

    def inputs(self, node: gs.Node) -> list[int]:
        """The inputs that are variables with the atom."""
        return [
            i
            for i, t in enumerate(node.inputs)
            if isinstance(t, gs.Variable) and self.dim(t.name) is not None
        ]

    def outputs(self, node: gs.Node) -> list[gs.Tensor]:
        """The outputs with the atom."""
        return [t for t in node.outputs if t.name and self.dim(t.name) is not None]

    def constants(self, node: gs.Node) -> list[ConstantUse]:
        """The constants with the atom."""
        return [self.uses[id(node), i] for i in range(len(node.inputs)) if (id(node), i) in self.uses]

    def dim(self, name: str) -> int | None:
        """The dimension of a variable that is the atom; None where it has none.

        Raises:
            NotLinear: the atom is only a part of an axis, or there twice.
        """
        axes = self.analysis.axes.get(name, [])
        having = [d for d, axis in enumerate(axes) if self.atom in atoms(axis)]
        if not having:
            return None
        if len(having) > 1 or find(axes[having[0]]) is not self.atom:
            raise NotLinear(f"it is only a part of an axis of '{name}'")
        return having[0]

    def dims(self, use: ConstantUse) -> list[int]:
        """The dimensions of a constant that are the atom."""
        found = [d for d, axis in enumerate(use.axes) if self.atom in atoms(axis)]
        if any(find(use.axes[d]) is not self.atom for d in found):
            raise NotLinear(f"it is only a part of an axis of '{use.constant.name}'")
        return found

    def carries(self, node: gs.Node) -> bool:
        """Whether a node is linear along the atom, which its output has, too."""
        slots = set(self.inputs(node)) | {u.slot for u in self.constants(node)}
        if not self.outputs(node) or not slots or any((id(node), i) in self.summed for i in slots):
            return False
        present = {i for i, t in enumerate(node.inputs) if t.name}
        if node.op in SUMS:
            return slots == present
        if node.op in SCALES:
            return len(slots) == 1 and (node.op == "Mul" or slots == {0})
        if node.op == "MatMul":
            return len(slots) == 1 and not self.constants(node)
        return node.op in MOVES and slots == {0}

    def reads(self, node: gs.Node) -> bool:
        """Whether a node sums over the atom in all inputs that have it, by multiplying them."""
        slots = self.inputs(node)
        return node.op in PRODUCTS and bool(slots) and all((id(node), i) in self.summed for i in slots)

    def writes(self, node: gs.Node) -> bool:
        """Whether a node's output has the atom because a constant has it."""
        own = [u for u in self.constants(node) if (id(node), u.slot) not in self.summed]
        if not self.outputs(node) or (self.inputs(node) and not self.reads(node)):
            return False
        return bool(own) and (node.op in PRODUCTS or self.carries(node))
