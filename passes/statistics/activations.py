"""What happens to a tensor element by element before anything else reads it: a ReLU, a clip, a GELU written out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.analysis.rules.elementwise import BROADCAST, UNARY
from pruneopt.arrays import Array
from pruneopt.model import Model
from pruneopt.passes.context import Context

OPS = {*UNARY, *BROADCAST}
LONGEST = 12  # nodes


@dataclass(frozen=True)
class Activation:
    """Nodes that turn tensor `source` into tensor `name`, of the same shape, and all that reads `source`."""

    source: str
    name: str
    nodes: list[gs.Node]

    def load(self, model: Model, context: Context) -> Callable[[Array], Array]:
        """The same as a function of any float32 array."""
        graph = model.graph
        ends = [gs.Variable(self.source, np.float32)], [gs.Variable(self.name)]
        piece = gs.Graph(self.nodes, *ends, opset=graph.opset, import_domains=graph.import_domains)
        session = context.session(Model(piece, model.header))

        def apply(array: Array) -> Array:
            found: Array = session.run({self.source: array.astype(np.float32, copy=False)})[self.name]
            return found

        return apply


def activation_of(tensor: gs.Tensor, graph: gs.Graph) -> Activation | None:
    """The shortest one behind a tensor; None where something else reads the tensor, too."""
    ends = {t.name for t in graph.outputs}
    inside, nodes = {tensor.name: tensor}, list[gs.Node]()
    queue = list(tensor.outputs)
    while queue and len(nodes) < LONGEST:
        node = next((n for n in queue if _is_inside(n, inside)), None)
        if node is None:
            return None
        queue = [n for n in queue if n is not node]
        nodes.append(node)
        inside[node.outputs[0].name] = node.outputs[0]
        queue += node.outputs[0].outputs
        known = {id(n) for n in nodes}
        read = [t for t in inside.values() if t.name in ends or any(id(n) not in known for n in t.outputs)]
        if [t.name for t in read] == [node.outputs[0].name]:
            return Activation(tensor.name, node.outputs[0].name, nodes)
    return None


def _is_inside(node: gs.Node, inside: dict[str, gs.Tensor]) -> bool:
    """Whether a node takes nothing but tensors of the region and single numbers."""
    numbers = all(
        t.name in inside or not t.name or (isinstance(t, gs.Constant) and int(np.prod(t.shape)) == 1)
        for t in node.inputs
    )
    return node.op in OPS and node.domain in (None, "", "ai.onnx") and len(node.outputs) == 1 and numbers
