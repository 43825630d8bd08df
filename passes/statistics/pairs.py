"""Products of two activations that sum over a prunable axis: the scores of attention, summed over head width."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from pruneopt.analysis.axes import Axis, find, is_free, parts
from pruneopt.analysis.infer import Analysis
from pruneopt.arrays import Array

Index = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Pair:
    """A MatMul `[... h ... s d] x [... h ... d t]` of two variables.

    Attributes:
        node: the node in the analysed graph.
        atom: d, or what d is several times in a row (`d | d` where positions rotate pairs of entries).
        entries: the entry of the atom at each place summed over.
        head: dimension of h in both operands, None where there is none.
        centred: a softmax over t follows, which does not see what all keys have in common.
    """

    node: gs.Node
    atom: Axis
    entries: Index
    head: int | None
    centred: bool

    @property
    def operands(self) -> tuple[str, str]:
        """Names of both inputs."""
        return str(self.node.inputs[0].name), str(self.node.inputs[1].name)


class PairMoments:
    """Second moments of both sides, per head."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self._sums: tuple[Array, Array] | None = None
        self._counts = [0, 0]

    def add(self, left: Array, right: Array) -> None:
        """Operands of one batch, as the node gets them."""
        right = right.swapaxes(-1, -2)
        if self.pair.centred:
            right = right - right.mean(axis=-2, keepdims=True)
        rows = [self._by_head(side) for side in (left, right)]
        squares = [np.einsum("hnd,hne->hde", r, r, optimize=True, dtype=np.float64) for r in rows]
        known = self._sums or (0.0, 0.0)
        self._sums = (known[0] + squares[0], known[1] + squares[1])
        self._counts = [c + r.shape[1] for c, r in zip(self._counts, rows, strict=True)]

    @property
    def left(self) -> Array:
        """E[q q^T], shape [heads, d, d]."""
        return self._side(0)

    @property
    def right(self) -> Array:
        """E[k k^T], shape [heads, d, d]."""
        return self._side(1)

    @property
    def interaction(self) -> Array:
        """Sum over heads of E[q_d q_e] E[k_d k_e]: its sum over removed d and e is the error of the scores.

        Shape [entries, entries].
        """
        size = self.pair.atom.size[0]
        places = np.arange(size) == self.pair.entries[:, None]  # [summed, entries]
        found: Array = places.T @ (self.left * self.right).sum(0) @ places
        return found

    def _side(self, which: int) -> Array:
        assert self._sums is not None
        found: Array = self._sums[which] / self._counts[which]
        return found

    def _by_head(self, side: Array) -> Array:
        """Shape [heads, rows, d]."""
        if self.pair.head is None:
            return side.reshape(1, -1, side.shape[-1])
        return np.moveaxis(side, self.pair.head, 0).reshape(side.shape[self.pair.head], -1, side.shape[-1])


def find_pairs(analysis: Analysis) -> list[Pair]:
    """All products over a whole prunable atom, in graph order."""
    found = []
    for node in analysis.model.graph.nodes:
        if node.op == "MatMul" and all(isinstance(t, gs.Variable) for t in node.inputs):
            left, right = (analysis.axes.get(t.name, []) for t in node.inputs)
            atom = _summed(left[-1], right[-2]) if len(left) == len(right) >= 2 else None
            if atom is not None:
                heads = [
                    i for i in range(len(left) - 2) if find(left[i]) is find(right[i]) and _is_static(left[i])
                ]
                if len(heads) <= 1:
                    entries = np.tile(np.arange(atom.size[0]), len(parts(left[-1])))
                    head = heads[0] if heads else None
                    found.append(Pair(node, atom, entries, head, _meets_softmax(node.outputs[0])))
    return found


def _summed(left: Axis, right: Axis) -> Axis | None:
    """The free atom that both axes are, once or several times in a row."""
    atom = find(parts(left)[0])
    same = all(find(p) is atom for axis in (left, right) for p in parts(axis))
    return atom if same and len(parts(left)) == len(parts(right)) and is_free(atom) else None


def _is_static(axis: Axis) -> bool:
    return find(axis).static and find(axis).size[0] > 1


def _meets_softmax(tensor: gs.Tensor) -> bool:
    """Whether all that happens to the scores is scaling and masking before a softmax over the last dimension."""
    for _ in range(6):
        if len(tensor.outputs) != 1:
            return False
        node = tensor.outputs[0]
        if node.op == "Softmax":
            return bool(node.attrs.get("axis", -1) in (-1, 3))
        if node.op not in ("Mul", "Div", "Add", "Where", "Cast"):
            return False
        tensor = node.outputs[0]
    return False
