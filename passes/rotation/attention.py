"""Query/key and value widths of attention, per head, in bases whose last directions matter least.

The scores q^T k stay as they are when q -> T q and k -> T^-T k, per head. With E[q q^T] = Lq Lq^T, E[k k^T] =
Lk Lk^T and Lq^T Lk = U S V^T, T = S^1/2 U^T Lq^-1 makes the directions independent, their weight S descending.
For values z, E[z z^T] = L L^T and the output's matrix W with W L = U S V^T: z -> V^T L^-1 z.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.analysis.axes import Axis, atoms, factors, find, is_free
from pruneopt.analysis.infer import Analysis, ConstantUse
from pruneopt.arrays import Array
from pruneopt.passes.rotation.turning import Editor
from pruneopt.passes.statistics.consumers import Consumer
from pruneopt.passes.statistics.evidence import Evidence
from pruneopt.passes.statistics.moments import root

LINEAR = set(
    "Add Div Expand Gemm Identity MatMul Mul Reshape Shape Slice Split Squeeze Transpose Unsqueeze".split()
)
DAMPING = 1e-3  # of the mean variance: keeps the basis well conditioned


class HeadTurner:
    """Turns the widths of heads in the copy of the analysed graph that an editor holds."""

    def __init__(self, analysis: Analysis, editor: Editor) -> None:
        self.analysis = analysis
        self.editor = editor

    def candidates(self) -> list[Axis]:
        """Free atoms that all ops treat linearly, minor in every product they are in."""
        found = {a for use in self.analysis.uses for axis in use.axes for a in atoms(axis) if is_free(a)}
        return [a for a in found if self._is_linear(a)]

    def turn_all(self, evidence: Evidence) -> int:
        """Rotate every candidate of which enough is known; returns their number."""
        count = 0
        for pairs in evidence.pairs.values():
            if len(pairs) == 1 and not self._consumers(pairs[0].pair.atom, evidence):
                left, right = _balance(pairs[0].left, pairs[0].right)
                count += self._turn_pair(pairs[0].pair.node, pairs[0].pair.atom, left, right)
        for atom in dict.fromkeys(find(factors(c.input_axis)[-1]) for c in evidence.consumers):
            readers = self._consumers(atom, evidence)
            if len(readers) == 1 and atom not in evidence.pairs and self._is_linear(atom):
                count += self._turn_value(readers[0], atom, evidence)
        return count

    def _consumers(self, atom: Axis, evidence: Evidence) -> list[Consumer]:
        return [c for c in evidence.consumers if atom in atoms(c.input_axis)]

    def _turn_pair(self, node: gs.Node, atom: Axis, left: Array, right: Array) -> bool:
        uses = self._uses(atom)
        sides = [_slot_reached(use.node, node) for use, _ in uses]
        if None in sides or set(sides) != {0, 1} or not self._fits(uses, len(left)):
            return False
        for (use, dim), side in zip(uses, sides, strict=True):
            self._apply(use, dim, left if side == 0 else right, f"{node.outputs[0].name} {side}")
        return True

    def _turn_value(self, reader: Consumer, atom: Axis, evidence: Evidence) -> bool:
        uses = [(use, dim) for use, dim in self._uses(atom) if use is not reader.use]
        moments = evidence.moments.get(reader.name)
        own = factors(reader.input_axis)
        if reader.groups != 1 or reader.shared or not uses or moments is None:
            return False
        shared = _leading(uses[0][0].axes[uses[0][1]])
        mine = [find(f) for f in own[:-1]]
        if any(f not in mine for f in shared) or len(set(map(id, mine))) < len(mine):
            return False
        heads = np.arange(int(np.prod([f.size[0] for f in shared])))
        if not self._fits(uses, len(heads)) or any(_leading(u.axes[d]) != shared for u, d in uses):
            return False
        # Where several heads share their values, as in grouped queries, so do they their basis.
        sizes = [f.size[0] if f in shared else 1 for f in mine]
        owner = np.broadcast_to(heads.reshape(sizes), [f.size[0] for f in mine]).reshape(-1)
        turned = self._principal(reader, moments.covariance[0], owner, atom.size[0])
        for use, dim in uses:
            self._apply(use, dim, turned, reader.name)
        inverse = np.linalg.inv(turned).swapaxes(1, 2)[owner]
        dim = next(d for d, axis in enumerate(reader.use.axes) if axis is reader.input_axis)
        self._apply(reader.use, dim, inverse, f"{reader.name} inverse")
        return True

    def _principal(self, reader: Consumer, covariance: Array, owner: Array, width: int) -> Array:
        """Map of each owner's values, [owners, d, d]."""
        count = len(owner)
        each = np.arange(count)
        own = covariance.reshape(count, width, count, width)[each, :, each]
        weight = reader.matrix[0].reshape(-1, count, width).transpose(1, 0, 2)
        found = []
        for head in range(int(owner.max()) + 1):
            mine = owner == head
            found.append(_principal(own[mine].mean(0)[None], np.concatenate(weight[mine])[None])[0])
        return np.stack(found)

    def _uses(self, atom: Axis) -> list[tuple[ConstantUse, int]]:
        return [(u, d) for u in self.analysis.uses for d, axis in enumerate(u.axes) if atom in atoms(axis)]

    def _fits(self, uses: list[tuple[ConstantUse, int]], heads: int) -> bool:
        """Whether every constant has the axis as (heads width), whole and in a place where a map can be folded in."""
        for use, dim in uses:
            own = factors(use.axes[dim])
            sizes = [f.size[0] for f in own[:-1]]
            makes = use.node.op in ("Add", "MatMul") or (use.node.op == "Gemm" and use.slot)
            tied = use.weight and len(use.constant.outputs) > 1
            rounds = np.dtype(use.constant.dtype).itemsize < 4  # half precision would round the new basis
            if int(np.prod(sizes)) != heads or not makes or tied or rounds:
                return False
        return True

    def _apply(self, use: ConstantUse, dim: int, map_: Array, label: str) -> None:
        """Apply a map per head, shape [heads, new, old], along a dimension (heads old) of a constant."""

        def change(array: Array) -> Array:
            split = array.reshape(*array.shape[:-1], len(map_), -1)
            return np.asarray(np.einsum("...hd,hed->...he", split, map_).reshape(array.shape))

        self.editor.apply(use, dim, change, f"heads {label}")

    def _is_linear(self, atom: Axis) -> bool:
        if not is_free(atom) or atom.coupled:
            return False
        return all(self._treats_linearly(node, atom) for node in self.analysis.model.graph.nodes)

    def _treats_linearly(self, node: gs.Node, atom: Axis) -> bool:
        variables = [t for t in (*node.inputs, *node.outputs) if isinstance(t, gs.Variable)]
        touching = [a for t in variables for a in self.analysis.axes.get(t.name, []) if atom in atoms(a)]
        if not touching:
            return True
        whole = all(find(factors(axis)[-1]) is atom for axis in touching)
        constants = [
            u for u in self.analysis.uses if u.node is node and any(atom in atoms(a) for a in u.axes)
        ]
        scaled = node.op in ("Mul", "Div") and (
            constants or len([t for t in node.inputs if self._has(t, atom)]) > 1
        )
        return whole and node.op in LINEAR and not scaled

    def _has(self, tensor: gs.Tensor, atom: Axis) -> bool:
        return any(atom in atoms(a) for a in self.analysis.axes.get(tensor.name, []))


def _leading(axis: Axis) -> list[Axis]:
    """The factors of an axis before the minor one."""
    return [find(f) for f in factors(axis)[:-1]]


def _balance(left: Array, right: Array) -> tuple[Array, Array]:
    """Maps of queries and keys, each [heads, d, d], that keep q^T k."""
    lower_q, lower_k = root(left, DAMPING), root(right, DAMPING)
    u, s, vt = np.linalg.svd(lower_q.swapaxes(1, 2) @ lower_k)
    scale = np.sqrt(s)[:, :, None]
    return scale * (u.swapaxes(1, 2) @ np.linalg.inv(lower_q)), scale * (vt @ np.linalg.inv(lower_k))


def _principal(covariance: Array, weight: Array) -> Array:
    """Map of values, [heads, d, d]; covariance [heads, d, d] of what weight [heads, out, d] is applied to."""
    lower = root(covariance, DAMPING)
    few = weight.shape[1] < weight.shape[2]  # outputs; what none of them hears makes up the rest of the basis
    _, _, vt = np.linalg.svd(weight @ lower, full_matrices=few)
    found: Array = vt @ np.linalg.inv(lower)
    return found


def _slot_reached(start: gs.Node, end: gs.Node) -> int | None:
    """The one input of `end` that the outputs of `start` reach; None for none or several."""
    found: set[int] = set()
    queue: list[gs.Node] = [start]
    seen = {id(start)}
    while queue:
        for tensor in queue.pop().outputs:
            found |= {i for i, t in enumerate(end.inputs) if t is tensor}
            new = [n for n in tensor.outputs if n is not end and id(n) not in seen]
            seen |= {id(n) for n in new}
            queue += new
    return found.pop() if len(found) == 1 else None
