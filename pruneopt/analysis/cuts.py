"""Cuts: where tokens can become fewer, because all data with tokens passes through one tensor.

A *cut* is a tensor behind a self-attention that alone carries data with tokens: what else crosses it with a token axis
(masks, biases, rotations) is a *companion*, which can be gathered along because no value passes through it.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_graphsurgeon as gs

from pruneopt.analysis.bodies import has_body
from pruneopt.analysis.tokens import Attention, Tokens, meets, same

MOST_TRIED = 60  # nodes behind an attention among whose outputs a cut is looked for


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


class Cuts:
    """Finds the cuts behind the attentions of a graph."""

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens
        self.analysis = tokens.analysis

    def site(self, attention: Attention) -> Site | Refusal:
        """The first cut behind an attention, or why there is none."""
        stream = self.data(attention)
        why = "no tensor behind it has the tokens as one of three dimensions"
        tried = 0
        for node in self.tokens.in_order(self.tokens.behind(attention.product.outputs[0].name)):
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
        behind = self.tokens.behind(name)
        companions = []
        for node in self.tokens.in_order(behind):
            if has_body(node):
                return f"{node.op} '{node.name}' behind it holds a body"
            for slot, tensor in enumerate(node.inputs):
                maker = self.tokens.maker.get(tensor.name)
                if not tensor.name or tensor.name == name or (maker is not None and id(maker) in behind):
                    continue
                axes = self.tokens.input_axes(node, slot)
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

    def values_before(self, attention: Attention) -> set[str]:
        """Names of what the values are made of, not counting what only steers an attention."""
        through = {id(a.product): a.value for a in self.tokens.attentions}
        found: set[str] = set()
        waiting = [attention.value]
        while waiting:
            name = waiting.pop()
            if name in found:
                continue
            found.add(name)
            node = self.tokens.maker.get(name)
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
            *(
                t.name
                for node in self.tokens.in_order(self.tokens.behind(attention.scores))
                for t in node.outputs
            ),
        }
        waiting = list(wide)
        while waiting:
            for node in self.tokens.readers.get(waiting.pop(), []):
                if node.op not in ("Shape", "Size"):
                    waiting += [t.name for t in node.outputs if t.name not in found]
                    found.update(t.name for t in node.outputs)
        return found

    def _is_wide(self, name: str) -> bool:
        return sum(max(a.size) > 1 for a in self.analysis.axes.get(name, [])) > 2
