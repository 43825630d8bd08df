"""Where a graph holds tokens, found by the axis algebra: no names, no patterns of models.

The token axis of an attention is what softmax runs over and the product behind it contracts. Where tokens can become
fewer behind one is looked for in `cuts.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import onnx_graphsurgeon as gs

from pruneopt.analysis.axes import Axis, atoms
from pruneopt.analysis.infer import Analysis
from pruneopt.model import makers

SCORES = set(
    "Add Sub Mul Div Where Cast CastLike Identity Reshape Clip Max Min Expand Unsqueeze Squeeze".split()
)
PROBABILITIES = SCORES | {"Dropout", "Transpose"}
PRODUCTS = {"MatMul", "Einsum"}


def same(a: Axis, b: Axis) -> bool:
    """Whether two axes are made of the same atoms in the same order."""
    return a.size == b.size and list(map(id, atoms(a))) == list(map(id, atoms(b)))


def meets(a: Axis, b: Axis) -> bool:
    """Whether two axes share an atom of more than one entry."""
    return bool({id(x) for x in atoms(a) if set(x.size) != {1}} & {id(x) for x in atoms(b)})


@dataclass(frozen=True, eq=False)
class Attention:
    """softmax(scores) @ value.

    Attributes:
        softmax: the node; its first input are the scores, its first output the probabilities, `[..., queries, keys]`.
        query: name of what the scores are a product of on the side of the queries.
        key: the same on the side of the keys.
        value: name of what the probabilities are multiplied with.
        product: that product's node.
        tokens: the axis of the keys.
        queries: that of the queries.
    """

    softmax: gs.Node
    query: str
    key: str
    value: str
    product: gs.Node
    tokens: Axis
    queries: Axis

    @property
    def is_self(self) -> bool:
        """Whether queries and keys are the same tokens."""
        return same(self.tokens, self.queries)

    @property
    def scores(self) -> str:
        """Name of what softmax reads."""
        return str(self.softmax.inputs[0].name)

    @property
    def probabilities(self) -> str:
        """Name of what softmax makes."""
        return str(self.softmax.outputs[0].name)


class Tokens:
    """The attentions of an analysed graph, and what depends on what."""

    def __init__(self, analysis: Analysis) -> None:
        self.analysis = analysis
        self.nodes = list(analysis.model.graph.nodes)
        self.order = {id(node): at for at, node in enumerate(self.nodes)}
        self.maker = makers(analysis.model.graph)
        self.readers: dict[str, list[gs.Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(t.name for t in node.inputs if t.name):
                self.readers.setdefault(name, []).append(node)
        self.uses = {(id(u.node), u.slot): u for u in analysis.uses}

    # --- attentions --------------------------------------------------------------------------------

    @cached_property
    def attentions(self) -> list[Attention]:
        """All attentions in graph order."""
        found = (self._attention(node) for node in self.nodes if node.op == "Softmax")
        return [each for each in found if each is not None]

    def _attention(self, softmax: gs.Node) -> Attention | None:
        axes = self.analysis.axes.get(softmax.outputs[0].name, [])
        if len(axes) < 2 or softmax.attrs.get("axis", -1) % len(axes) != len(axes) - 1:
            return None
        keys = axes[-1]
        product = self._forward(softmax, keys)
        scores = self._backward(softmax)
        if product is None or scores is None:
            return None
        node, slot = product
        at = _key_slot(scores)
        query, key, value = scores.inputs[1 - at].name, scores.inputs[at].name, node.inputs[1 - slot].name
        return Attention(softmax, query, key, value, node, keys, axes[-2])

    def _forward(self, softmax: gs.Node, keys: Axis) -> tuple[gs.Node, int] | None:
        """The node that contracts the probabilities over the keys, and at which input."""
        contracted = {(id(u.node), u.slot) for u in self.analysis.contractions if same(u.axis, keys)}
        waiting = [softmax.outputs[0].name]
        while waiting:
            name = waiting.pop(0)
            for node in self.readers.get(name, []):
                slot = next(i for i, t in enumerate(node.inputs) if t.name == name)
                if node.op in PRODUCTS and (id(node), slot) in contracted and len(node.inputs) == 2:
                    return node, slot
                if node.op in PROBABILITIES:
                    waiting.append(node.outputs[0].name)
        return None

    def _backward(self, softmax: gs.Node) -> gs.Node | None:
        """The product of queries and keys that makes the scores."""
        waiting = [softmax.inputs[0].name]
        while waiting:
            node = self.maker.get(waiting.pop(0))
            if node is None:
                continue
            if (
                node.op in PRODUCTS
                and len(node.inputs) == 2
                and all(t.name in self.maker for t in node.inputs)
            ):
                return node
            if node.op in SCORES:
                waiting += [t.name for t in node.inputs if isinstance(t, gs.Variable) and t.name]
        return None

    # --- reachability ------------------------------------------------------------------------------

    def behind(self, name: str) -> set[int]:
        """Ids of all nodes that depend on a tensor."""
        found: set[int] = set()
        waiting = [name]
        while waiting:
            for node in self.readers.get(waiting.pop(), []):
                if id(node) not in found:
                    found.add(id(node))
                    waiting += [t.name for t in node.outputs]
        return found

    def before(self, names: Iterable[str]) -> set[int]:
        """Ids of all nodes that these tensors depend on."""
        found: set[int] = set()
        waiting = list(names)
        while waiting:
            node = self.maker.get(waiting.pop())
            if node is not None and id(node) not in found:
                found.add(id(node))
                waiting += [t.name for t in node.inputs if t.name]
        return found

    def in_order(self, ids: Collection[int]) -> Iterator[gs.Node]:
        return iter(sorted((self.nodes[self.order[i]] for i in ids), key=lambda n: self.order[id(n)]))

    def input_axes(self, node: gs.Node, slot: int) -> list[Axis] | None:
        """Axes of one input of a node; None where unknown."""
        tensor = node.inputs[slot]
        if isinstance(tensor, gs.Constant):
            use = self.uses.get((id(node), slot))
            return None if use is None else use.axes
        return self.analysis.axes.get(tensor.name)


def _key_slot(scores: gs.Node) -> int:
    """Which operand of queries times keys gives the last dimension of the scores."""
    if scores.op == "MatMul":
        return 1
    equation = scores.attrs["equation"]
    left, _, right = (
        (equation.decode() if isinstance(equation, bytes) else equation).replace(" ", "").partition("->")
    )
    return 0 if right[-1:] in left.split(",")[0] else 1
