"""Keys that are turned by their place (rotary embeddings) before they enter a cache, and how to move them.

Between a key k and what is cached lies f(k, p) with the place p. Rotations add up, f(f(k, p), q) = f(k, p + q), so
that the nodes of f move cached keys to other places. They are found by dominance, not by their look: the smallest
piece of graph that leads from one tensor to the cached one and reads a tensor made of places.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from pruneopt.analysis.infer import Analysis
from pruneopt.analysis.observe import derived_tensors
from pruneopt.errors import PruneoptError
from pruneopt.passes.length.emit import Emit

MOST = 40  # nodes of a turning
ENDS = {"MatMul", "Gemm", "Conv", "Softmax", "Einsum", "Attention"}  # a turning does not reach across these
SHAPES = {"Reshape": {1}, "Expand": {1}, "Slice": {1, 2, 3, 4}, "Tile": {1}, "Unsqueeze": {1}, "Squeeze": {1}}
Place = Callable[[gs.Tensor], gs.Tensor]


@dataclass(frozen=True)
class Turning:
    """The nodes from `root` to `end`, some of which read tensors made of places."""

    root: str
    end: str
    nodes: tuple[gs.Node, ...]


class Turnings:
    """Where places enter the data of an analysed graph.

    Attributes:
        moving: derived tensors that are made of places.
    """

    def __init__(self, analysis: Analysis, places: Collection[str]) -> None:
        self.nodes = list(analysis.model.graph.nodes)
        self.derived = derived_tensors(analysis.model.graph)
        self.maker = {t.name: i for i, node in enumerate(self.nodes) for t in node.outputs}
        self.places = set(places)
        self.moving = set(self.places)
        for node in self.nodes:
            if any(t.name in self.moving for t in _data(node)) and node.outputs[0].name in self.derived:
                self.moving |= {t.name for t in node.outputs}

    def readers(self) -> list[gs.Node]:
        """Nodes that bring places and data together."""
        return [
            node
            for node in self.nodes
            if node.outputs[0].name not in self.derived and any(t.name in self.moving for t in _data(node))
        ]

    def of(self, end: str) -> Turning | None:
        """How a tensor was turned by its place; None where it was not."""
        nodes: list[gs.Node] = []
        open_, reads = {end}, False
        while len(nodes) < MOST:
            if reads and len(open_) == 1:
                return Turning(open_.pop(), end, tuple(reversed(nodes)))
            name = max(open_, key=lambda n: self.maker.get(n, -1))
            if name not in self.maker or self.nodes[self.maker[name]].op in ENDS:
                return None
            node = self.nodes[self.maker[name]]
            nodes.append(node)
            reads |= any(t.name in self.moving for t in _data(node))
            open_ -= {t.name for t in node.outputs}
            open_ |= {
                t.name for t in _data(node) if isinstance(t, gs.Variable) and t.name not in self.derived
            }
        return None

    def again(self, emit: Emit, turning: Turning, x: gs.Tensor, place: Place) -> gs.Tensor:
        """`x` turned by other places; `place` gives what stands for a tensor of places.

        Raises:
            PruneoptError: a size inside hangs on the number of places.
        """
        made: dict[str, gs.Tensor] = {turning.root: x}
        tensors = emit.model.graph.tensors()

        def copy(tensor: gs.Tensor) -> gs.Tensor:
            if tensor.name not in made:
                made[tensor.name] = self._copied(emit, tensor, tensors, copy, place)
            return made[tensor.name]

        for node in turning.nodes:
            self._clone(emit, node, made, copy)
        return made[turning.end]

    def _copied(
        self, emit: Emit, tensor: gs.Tensor, tensors: dict[str, gs.Tensor], copy: Place, place: Place
    ) -> gs.Tensor:
        """What stands for a derived tensor or a constant."""
        if tensor.name in self.places:
            return place(tensors[tensor.name])
        if tensor.name not in self.moving:
            return tensors.get(tensor.name, tensor)
        node = self.nodes[self.maker[tensor.name]]
        if node.op == "Expand":  # what follows broadcasts
            return copy(node.inputs[0])
        made: dict[str, gs.Tensor] = {}
        self._clone(emit, node, made, copy)
        return made[tensor.name]

    def _clone(self, emit: Emit, node: gs.Node, made: dict[str, gs.Tensor], copy: Place) -> None:
        sizes = [node.inputs[slot] for slot in SHAPES.get(node.op, ()) if slot < len(node.inputs)]
        if any(isinstance(t, gs.Variable) and t.name for t in sizes):
            raise PruneoptError(f"{node.op} '{node.name}' between places and keys has a computed size")
        inputs = [copy(t) if t.name else None for t in node.inputs]
        outs = [gs.Variable(emit.names.new(f"{t.name}_moved")) for t in node.outputs]
        emit.ops(node.op, *inputs, outs=outs, **node.attrs)
        emit.model.graph.nodes[-1].domain = node.domain
        made |= {t.name: out for t, out in zip(node.outputs, outs, strict=True)}


def _data(node: gs.Node) -> list[gs.Tensor]:
    """Inputs that are values, not sizes."""
    return [
        t
        for i, t in enumerate(node.inputs)
        if i not in SHAPES.get(node.op, ()) and node.op not in ("Shape", "Size")
    ]
