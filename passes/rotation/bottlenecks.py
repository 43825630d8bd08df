"""Widths under no norm that are linear all round, as the narrow ends of inverted bottlenecks, in a better basis.

With C = L L^T the covariance of what is read, the mean over its readers, H the sum of W^T W / tr(W C W^T) over them,
and L^T H L = V S V^T: x' = V^T L^-1 x has independent entries of variance one, and S is what readers lose with each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.analysis.axes import Axis, Kind, atoms, find
from pruneopt.analysis.bodies import nodes_of
from pruneopt.analysis.infer import Analysis
from pruneopt.arrays import Array
from pruneopt.passes.rotation.linear import MOVES, PRODUCTS, SCALES, SUMS, NotLinear
from pruneopt.passes.rotation.streams import Residual, find_residual
from pruneopt.passes.rotation.turning import Change, Editor, take_over
from pruneopt.passes.statistics.consumers import Consumer
from pruneopt.passes.statistics.moments import Moments, root

DAMPING = 1e-3  # of the mean variance: keeps the basis well conditioned
LINEAR = SUMS | SCALES | MOVES | PRODUCTS | {"Shape"}


@dataclass(frozen=True, eq=False)
class Bottleneck:
    """A width whose basis may be any.

    Attributes:
        residual: where it is, and who writes to it.
        readers: the weights that sum over it.
    """

    residual: Residual
    readers: list[Consumer]
    _moments: dict[str, Moments] = field(default_factory=dict)

    def watched(self) -> dict[str, int]:
        """The tensors that readers read, and which of their dimensions the width is."""
        place = self.residual.place
        dims = {reader.data: place.dim(reader.data) for reader in self.readers}
        return {name: dim for name, dim in dims.items() if dim is not None}

    def add(self, name: str, rows: Array) -> None:
        """Rows of one of these tensors, shape [rows, size]."""
        self._moments.setdefault(name, Moments()).add(rows[None])

    def basis(self) -> Array:
        """T of x' = T x, whose entries matter to the readers in descending order. Shape [size, size]."""
        size = self.residual.size
        known = {name: moments.covariance[0] for name, moments in self._moments.items()}
        mean = sum(known.values(), np.zeros((size, size))) / len(known)
        lower = root(mean, DAMPING)
        worth = np.zeros((size, size))
        for reader in self.readers:
            taps = reader.matrix[0].reshape(-1, size, reader.window).transpose(0, 2, 1).reshape(-1, size)
            heard = taps.T @ taps
            worth += heard / (float(np.einsum("ij,ij->", heard, known[reader.data])) or 1.0)
        _, vectors = np.linalg.eigh(lower.T @ worth @ lower)
        found: Array = np.linalg.solve(lower.T, vectors[:, ::-1]).T
        return found

    def turn(self, editor: Editor) -> None:
        """Write x' instead of x, and read it: W x = (W T^-1) x'."""
        place = self.residual.place
        basis = self.basis()
        inverse = np.linalg.inv(basis)
        for scale in self.residual.scales:
            take_over(scale, self.residual.size, editor)
        scaled = {id(scale.node) for scale in self.residual.scales}
        summed = {(id(u.node), u.slot, u.dim) for u in place.analysis.contractions}
        for use in place.uses.values():
            for dim in place.dims(use) if id(use.node) not in scaled else ():
                reads = (id(use.node), use.slot, dim) in summed
                side = "read" if reads else "written"
                change = _times(inverse if reads else basis.T)
                editor.apply(use, dim, change, f"{self.readers[0].name} {side}")


def _times(matrix: Array) -> Change:
    return lambda x: np.asarray(x @ matrix)


def find_bottlenecks(
    analysis: Analysis, consumers: Mapping[int, Consumer], taken: set[Axis]
) -> Iterator[Bottleneck]:
    """All of them, in graph order, but for the atoms that are `taken`; consumers by the `id` of their nodes."""
    bent = taken | _bent(analysis)
    for atom in dict.fromkeys(a for u in analysis.uses if u.weight for axis in u.axes for a in atoms(axis)):
        atom = find(atom)
        free = atom.kind is Kind.ATOM and atom.static and not atom.frozen and not atom.coupled
        if not free or atom.size[0] < 2 or atom in bent:
            continue
        try:
            residual = find_residual(analysis, atom, consumers)
        except NotLinear:
            continue
        readers = _readers(residual, consumers)
        if readers and not any(
            u.weight and len(u.constant.outputs) > 1 for u in residual.place.uses.values()
        ):
            yield Bottleneck(residual, readers)


def _bent(analysis: Analysis) -> set[Axis]:
    """The atoms that some node is not linear along, for all that its name says; bodies are not looked into."""
    graph = analysis.model.graph
    outer = {id(node) for node in graph.nodes}
    found: set[Axis] = set()
    for node in nodes_of(graph):
        plain = node.op in LINEAR and id(node) in outer and node.attrs.get("group", 1) == 1
        if not plain:
            tensors = [t.name for t in (*node.inputs, *node.outputs) if isinstance(t, gs.Variable)]
            found |= {a for name in tensors for axis in analysis.axes.get(name, []) for a in atoms(axis)}
    return found


def _readers(residual: Residual, consumers: Mapping[int, Consumer]) -> list[Consumer]:
    """What reads the width, where all of it is ungrouped weights that nothing else uses; else nothing."""
    nodes = [node for region in residual.regions for node in region.readers]
    found = [consumers.get(id(node)) for node in nodes]
    whole = [c for c in found if c is not None and c.groups == 1 and not c.shared]
    own = [c for c in whole if find(c.input_axis) is residual.place.atom]
    return own if len(own) == len(nodes) else []
