"""The size of every axis when inputs have fewer places, op by op.

The algebra says which axes stay alike; where an op makes places of its own (windows, padding, scaling), their
number follows from its parameters. What a weight is made for keeps its size: where that is not possible, the
model holds on to its input's size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_graphsurgeon as gs

from pruneopt.analysis.axes import Axis, Kind, atoms, factors, find, parts
from pruneopt.analysis.bodies import has_body
from pruneopt.analysis.infer import Analysis
from pruneopt.analysis.masks import size_of
from pruneopt.errors import PruneoptError
from pruneopt.model import values
from pruneopt.passes.length.extent.ends import End, held
from pruneopt.passes.length.extent.windows import MIXING, places

BY_POSITION = set(
    "GatherND GatherElements ScatterND ScatterElements Scatter Trilu GridSample AffineGrid Col2Im DFT STFT "
    "DeformConv CenterCropPad ReverseSequence TensorScatter Range NonZero OneHot MaxUnpool".split()
)


class Fixed(PruneoptError):
    """An axis cannot have the size that it would have to have."""


@dataclass
class Settled:
    """New sizes.

    Attributes:
        sizes: by atom, of those that change.
        grids: places that lie on one line, as factors from the outermost to the innermost, each with its new number.
        roles: of atoms, which dimension of the input they come from.
        windowed: nodes that make places of their own with spatial sizes: old, new, and new of the output.
        even: whether every op's places shrank by the same share as its inputs'.
    """

    sizes: dict[Axis, int] = field(default_factory=dict)
    grids: dict[tuple[Axis, ...], int] = field(default_factory=dict)
    roles: dict[Axis, str] = field(default_factory=dict)
    windowed: list[tuple[gs.Node, list[int], list[int], list[int]]] = field(default_factory=list)
    even: bool = True

    def size(self, axis: Axis) -> int:
        """The new size of any axis."""
        return size_of(axis, self.sizes)

    def touched(self, axis: Axis) -> bool:
        """Whether it has another size than before."""
        return any(a in self.sizes for a in atoms(axis))

    def mixes(self, axis: Axis) -> bool:
        """Whether it has other places than before, not only fewer of them at the end."""
        return any(self.roles.get(a, "sequence") != "sequence" for a in atoms(axis))


class Course:
    """What stays the same from one size of the inputs to the next.

    Attributes:
        analysis: of the whole graph.
        held: atoms that weights are made for, each with the name of such a weight.
        born: of each atom, the place of the node that makes it first; -1 for inputs.
        stops: places of the nodes where sizes do not follow from the algebra alone.
    """

    def __init__(self, analysis: Analysis) -> None:
        self.analysis = analysis
        self.held = held(analysis)
        self.born: dict[Axis, int] = {}
        self.stops: list[int] = []
        for tensor in analysis.model.graph.inputs:
            self._bear(tensor, -1)
        for at, node in enumerate(analysis.model.graph.nodes):
            for out in node.outputs:
                self._bear(out, at)
            if node.op in MIXING | BY_POSITION | {"Gather"} or has_body(node):
                self.stops.append(at)

    def _bear(self, tensor: gs.Tensor, at: int) -> None:
        for axis in self.analysis.axes.get(tensor.name, []):
            for atom in atoms(axis):
                self.born.setdefault(atom, at)


def settle(course: Course, ends: Mapping[End, int]) -> Settled:
    """Sizes of all axes when these dimensions of the inputs have these sizes.

    Raises:
        Fixed: something holds on to the number of places; the message says what.
    """
    return _Settling(course, ends).run()


class _Settling:
    def __init__(self, course: Course, ends: Mapping[End, int]) -> None:
        self.course = course
        self.analysis = course.analysis
        self.held = course.held
        self.ends = ends
        self.found = Settled()
        self.at = -1  # place of the current node

    def run(self) -> Settled:
        for end, size in self.ends.items():
            self._assign(end.axis, size, end.role, f"input '{end.tensor.name}'")
        nodes = self.analysis.model.graph.nodes
        for at in self.course.stops:
            self.at = at
            self._visit(nodes[at])
        return self.found

    def _visit(self, node: gs.Node) -> None:
        inputs = self.analysis.axes.get(node.inputs[0].name, []) if node.inputs else []
        moved = any(self.found.touched(axis) for axis in inputs)
        if any(map(self.found.mixes, inputs)) and (node.op in BY_POSITION or self._picks(node)):
            raise Fixed(f"{node.op} '{node.name}' works by position, for its full size only")
        if moved and has_body(node):
            raise Fixed(f"{node.op} '{node.name}' holds a body")
        if node.op in MIXING and moved:
            self._mix(node, inputs, self.analysis.axes[node.outputs[0].name])

    def _is_done(self, axis: Axis) -> bool:
        """Whether the size of an axis, or of a part of it, is known already."""
        return any(self.course.born.get(a, self.at) < self.at or a in self.found.sizes for a in atoms(axis))

    def _picks(self, node: gs.Node) -> bool:
        """Whether entries are picked that may be somewhere else, or not there, when an axis changes."""
        if node.op != "Gather":
            return False
        axes = self.analysis.axes.get(node.inputs[0].name, [])
        axis = axes[node.attrs.get("axis", 0) % len(axes)]
        if not self.found.touched(axis):
            return False
        known = values(node.inputs[1]) if isinstance(node.inputs[1], gs.Constant) else None
        front = 0
        for part in parts(axis):
            if self.found.touched(part):
                break
            front += part.size[0]
        return known is None or known.min() < 0 or known.max() >= front

    def _mix(self, node: gs.Node, inputs: list[Axis], outputs: list[Axis]) -> None:
        """Places behind a window: those of its last dimensions, or all where all may change."""
        first = 0 if node.op in ("Pad", "Resize", "Upsample") else 2
        old, was = ([axis.size[0] for axis in axes[first:]] for axes in (inputs, outputs))
        new = [self.found.size(axis) for axis in inputs[first:]]
        if first == 0 and node.op != "Pad":  # a size that another branch has settled
            now = [self.found.size(a) if self._is_done(a) else None for a in outputs]
        else:
            now = [None] * len(new)
        made = places(node, old, was, new)
        if made is None:
            raise Fixed(f"{node.op} '{node.name}' has a computed window")
        made = [m if n is None else n for m, n in zip(made, now, strict=True)]
        for source, axis, before, after, wide, size in zip(
            inputs[first:], outputs[first:], old, was, new, made, strict=True
        ):
            if wide == before and not self.found.touched(axis):
                continue
            if size < 1:
                raise Fixed(f"{node.op} '{node.name}' has no place left")
            divides = (
                before % after == 0 or after % before == 0
            )  # else nothing is lost that was not lost before
            self.found.even &= after == 1 or not divides or size * before == wide * after
            role = next((self.found.roles[a] for a in atoms(source) if a in self.found.roles), "resolution")
            self._assign(axis, size, role, f"{node.op} '{node.name}'")
        self.found.windowed.append((node, old, new, made))

    def _assign(self, axis: Axis, size: int, role: str, who: str) -> None:
        """Give an axis a size, by its leading factor or its largest part that is free to change."""
        if self.found.size(axis) != size:
            self._change(find(axis), size, role, who)
        if self.found.touched(axis) and find(axis).kind is not Kind.CONCAT:
            self.found.grids[tuple(map(find, factors(axis)))] = size

    def _change(self, axis: Axis, size: int, role: str, who: str) -> None:
        if axis.kind is Kind.ATOM:
            if axis in self.held:
                raise Fixed(f"{who}: the weight '{self.held[axis]}' is made for {axis} places")
            if self._is_done(axis):
                raise Fixed(f"{who}: it would have {size} places where another has {self.found.size(axis)}")
            self.found.sizes[axis], self.found.roles[axis] = size, role
            return
        times = axis.kind is Kind.PRODUCT
        # the leading factor counts windows, patches or blocks; how large each is belongs to the architecture
        items = factors(axis)[:1] if times else sorted(parts(axis), key=lambda p: -p.size[0])
        for item in items:
            own = self.found.size(item)
            whole = self.found.size(axis)
            share, rest = divmod(size, whole // own) if times else (size - whole + own, 0)
            free = not self._is_done(item) and not any(a in self.held for a in atoms(item))
            if free and not rest and share > 0:
                self._assign(item, share, role, who)
                return
        raise Fixed(f"{who}: {axis} places cannot become {size}")
