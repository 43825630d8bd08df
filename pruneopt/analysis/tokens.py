"""Where a graph holds tokens, found by the axis algebra: no names, no patterns of models.

The token axis of an attention is what softmax runs over and the product behind it contracts. A *cut* is a
tensor behind a self-attention that alone carries data with tokens: what else crosses it with a token axis
(masks, biases, rotations) is a *companion*, which can be gathered along because no value passes through it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import onnx_graphsurgeon as gs

from pruneopt.analysis.axes import Axis, atoms
from pruneopt.analysis.infer import Analysis

SCORES = set(
    "Add Sub Mul Div Where Cast CastLike Identity Reshape Clip Max Min Expand Unsqueeze Squeeze".split()
)
PROBABILITIES = SCORES | {"Dropout", "Transpose"}
PRODUCTS = {"MatMul", "Einsum"}
MOST_TRIED = 60  # nodes behind an attention among whose outputs a cut is looked for


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


@dataclass(frozen=True, eq=False)
class Companion:
    """An input of a node behind a cut that carries tokens and no data: a mask, a bias, a rotation.

    Attributes:
        node: the node that reads it.
        slot: which of its inputs.
        dims: dimensions that are the token axis.
    """

    node: gs.Node
    slot: int
    dims: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Site:
    """A cut behind one self-attention.

    Attributes:
        attention: the one whose keys and probabilities say what each token is worth.
        tensor: name of the cut.
        dims: its (batch, token, channel) dimensions.
        behind: ids of all nodes behind the cut.
        companions: what else crosses the cut with a token axis.
    """

    attention: Attention
    tensor: str
    dims: tuple[int, int, int]
    behind: frozenset[int]
    companions: tuple[Companion, ...]


@dataclass(frozen=True)
class Refusal:
    """Why there is no site behind an attention (or a later step says no)."""

    where: str
    why: str

    def __str__(self) -> str:
        return f"{self.where}: {self.why}"


class Tokens:
    """Self-attentions and cuts of an analysed graph."""

    def __init__(self, analysis: Analysis) -> None:
        self.analysis = analysis
        self.nodes = list(analysis.model.graph.nodes)
        self.order = {id(node): at for at, node in enumerate(self.nodes)}
        self.maker = {t.name: node for node in self.nodes for t in node.outputs if t.name}
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

    # --- cuts --------------------------------------------------------------------------------------

    def site(self, attention: Attention) -> Site | Refusal:
        """The first cut behind an attention, or why there is none."""
        stream = self.data(attention)
        why = "no tensor behind it has the tokens as one of three dimensions"
        tried = 0
        for node in self._in_order(self.behind(attention.product.outputs[0].name)):
            if tried > MOST_TRIED or node.op == "Softmax":
                break
            tried += 1
            for tensor in node.outputs:
                dims = self._stream_dims(tensor.name, attention)
                if dims is None:
                    continue
                found = self._cut(tensor.name, attention, stream)
                if isinstance(found, str):
                    why = found
                else:
                    return Site(attention, tensor.name, dims, *found)
        return Refusal(attention.softmax.name or attention.scores, why)

    def _cut(
        self, name: str, attention: Attention, stream: set[str]
    ) -> tuple[frozenset[int], tuple[Companion, ...]] | str:
        """(nodes behind, companions) where all data with tokens passes through `name`; else why not."""
        behind = self.behind(name)
        companions = []
        for node in self._in_order(behind):
            if any(True for _ in node.subgraphs()):
                return f"{node.op} '{node.name}' behind it holds a body"
            for slot, tensor in enumerate(node.inputs):
                maker = self.maker.get(tensor.name)
                if not tensor.name or tensor.name == name or (maker is not None and id(maker) in behind):
                    continue
                axes = self.input_axes(node, slot)
                if axes is None or not any(meets(a, attention.tokens) for a in axes):
                    continue
                dims = tuple(i for i, a in enumerate(axes) if same(a, attention.tokens))
                if len(dims) != sum(meets(a, attention.tokens) for a in axes):
                    return f"'{tensor.name}' holds its tokens as part of a larger dimension"
                if tensor.name in stream:
                    return f"'{tensor.name}' carries data past every cut"
                companions.append(Companion(node, slot, dims))
        return frozenset(behind), tuple(companions)

    def _stream_dims(self, name: str, attention: Attention) -> tuple[int, int, int] | None:
        """(batch, token, channel) dimensions of a tensor of three dimensions one of which are the tokens."""
        axes = self.analysis.axes.get(name, [])
        at = [i for i, a in enumerate(axes) if same(a, attention.tokens)]
        if (
            len(axes) != 3
            or len(at) != 1
            or any(meets(a, attention.tokens) for i, a in enumerate(axes) if i != at[0])
        ):
            return None
        rest = [i for i in range(3) if i != at[0]]
        scores = self.analysis.axes[attention.probabilities][:-2]
        batch = [i for i in rest if set(axes[i].size) == {1} or any(meets(axes[i], a) for a in scores)]
        if len(batch) != 1:
            return None
        return batch[0], at[0], next(i for i in rest if i != batch[0])

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

    def values_before(self, attention: Attention) -> set[str]:
        """Names of what the values are made of, not counting what only steers an attention."""
        through = {id(a.product): a.value for a in self.attentions}
        found: set[str] = set()
        waiting = [attention.value]
        while waiting:
            name = waiting.pop()
            if name in found:
                continue
            found.add(name)
            node = self.maker.get(name)
            if node is not None and node.op not in ("Shape", "Size"):
                only = through.get(id(node))
                waiting += (
                    [only] if only else [t.name for t in node.inputs if isinstance(t, gs.Variable) and t.name]
                )
        return found

    def data(self, attention: Attention) -> set[str]:
        """Names of what carries data: tokens with channels that become values, and whatever depends on them."""
        wide = [n for n in self.values_before(attention) if self._is_wide(n)]
        found = {
            *wide,
            *(t.name for node in self._in_order(self.behind(attention.scores)) for t in node.outputs),
        }
        waiting = list(wide)
        while waiting:
            for node in self.readers.get(waiting.pop(), []):
                if node.op not in ("Shape", "Size"):
                    waiting += [t.name for t in node.outputs if t.name not in found]
                    found.update(t.name for t in node.outputs)
        return found

    def _is_wide(self, name: str) -> bool:
        return sum(max(a.size) > 1 for a in self.analysis.axes.get(name, [])) > 2

    def _in_order(self, ids: Collection[int]) -> Iterator[gs.Node]:
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
