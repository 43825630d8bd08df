"""Consumers: the nodes that apply a constant weight to data, seen as a matrix per group of channels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues

from pruneopt.analysis.axes import Axis, Kind, atoms, factors, find, parts
from pruneopt.analysis.infer import Analysis, ConstantUse
from pruneopt.arrays import Array
from pruneopt.model import values

Index = npt.NDArray[np.int64]
OUTPUTS = 4096  # that are looked at at once
FEATURES = 4608  # of one fit, where windows have more: time grows with their cube, memory with their square


@dataclass(frozen=True, eq=False)
class Consumer:
    """`MatMul`, `Gemm` or `Conv` with a constant weight.

    Its weight is a stack of matrices, shape [groups, outputs, features]; a Conv has one feature for each input
    channel of a group and place of the window.

    Attributes:
        node: the node in the analysed graph.
        use: its weight.
        groups: number of channel groups.
        shared: something else uses the weight too, so that it must stay as it is.
    """

    node: gs.Node
    use: ConstantUse
    groups: int
    shared: bool

    @property
    def name(self) -> str:
        """Name of the output tensor, which the rewritten model has as well."""
        return str(self.node.outputs[0].name)

    @property
    def slot(self) -> int:
        """Which input of the node is the weight: 1, or 0 where columns are multiplied, as in W x."""
        return self.use.slot

    @property
    def data(self) -> str:
        """Name of the tensor that the weight is applied to."""
        return str(self.node.inputs[1 - self.slot].name)

    @property
    def input_axis(self) -> Axis:
        """The contracted axis of the weight (of one group's channels)."""
        return self.use.axes[self._contracted]

    @property
    def output_axis(self) -> Axis:
        """The axis of the weight that makes the output's channels."""
        return self.use.axes[self._made]

    @property
    def window(self) -> int:
        """Features per input channel."""
        return prod(self.use.constant.shape[2:])

    @property
    def features(self) -> int:
        """Features of one group of channels."""
        return int(prod(self.use.constant.shape)) // prod(self.outputs)

    @property
    def outputs(self) -> tuple[int, int]:
        """(groups, outputs of each)."""
        return self.groups, int(self.use.constant.shape[self._made]) // self.groups

    def sees(self, other: Consumer) -> bool:
        """Whether both are applied to the same rows."""
        plain = self.node.op != "Conv" and other.node.op != "Conv"
        return plain and self.data == other.data and find(self.input_axis) is find(other.input_axis)

    @property
    def matrix(self) -> Array:
        """The weight, float64, shape [groups, outputs, features]."""
        return self.as_matrix(values(self.use.constant))

    def as_matrix(self, weight: Array) -> Array:
        """A weight as it is stored, as matrices."""
        flat = weight.astype(np.float64)
        if self.node.op == "Conv":
            return flat.reshape(self.groups, weight.shape[0] // self.groups, -1)
        return np.ascontiguousarray(flat.T if self._contracted == 0 else flat)[None]

    def stored(self, matrix: Array, kind: npt.DTypeLike | None = None) -> Array:
        """Matrices as the node stores them, of its constant's type or of another."""
        constant = self.use.constant
        weight = matrix[0].T if self._contracted == 0 else matrix
        found: Array = np.ascontiguousarray(weight).reshape(constant.shape).astype(kind or constant.dtype)
        return found

    def heard(self, importance: Array) -> Array:
        """Sum over outputs o of importance[o] w_o w_o^T, float64; importance has shape [groups, outputs].

        Shape [groups, features, features]. A few outputs at a time: a classifier may have very many.
        """
        if self.node.op == "Conv":
            weight = self.matrix
            return np.asarray((weight * importance[:, :, None]).transpose(0, 2, 1) @ weight)
        stored = values(self.use.constant)
        rows = stored.T if self._contracted == 0 else stored
        found = np.zeros((self.features, self.features))
        for i in range(0, len(rows), OUTPUTS):
            block = rows[i : i + OUTPUTS].astype(np.float64)
            found += (block * importance[0, i : i + OUTPUTS, None]).T @ block
        return found[None]

    def entries(self, atom: Axis) -> Index | None:
        """Which entry of `atom` each feature belongs to, -1 for none. Shape [features].

        None where the axis contains the atom more than once in a product.
        """
        found = positions(self.input_axis, atom)
        return None if found is None else np.repeat(found, self.window)

    def narrow(self) -> Consumer:
        """Itself, or where windows make more than `FEATURES` features of it, one of fewer."""
        channels = self.features // self.window
        most = max(1, FEATURES // channels)
        if self.window <= most:
            return self
        return Narrow(
            self.node, self.use, self.groups, self.shared, _waves(self.use.constant.shape[2:], most)
        )

    def seen(self, rows: Array) -> Array:
        """Rows of what the weight is applied to, shape [groups, rows, channels * kernel], as features."""
        return rows

    @property
    def _made(self) -> int:
        return 1 - self._contracted

    @property
    def _contracted(self) -> int:
        if self.node.op == "MatMul":
            return 1 - self.slot
        return 0 if self.node.op == "Gemm" and self.slot == 1 and not self.node.attrs.get("transB") else 1


@dataclass(frozen=True, eq=False)
class Narrow(Consumer):
    """A Conv whose features are the lowest frequencies of each channel's window; all else of its weight stays.

    Attributes:
        waves: an orthonormal basis of them, shape [kernel, window].
    """

    waves: Array

    @property
    def window(self) -> int:
        """Features per input channel."""
        return int(self.waves.shape[1])

    @property
    def features(self) -> int:
        """Features of one group of channels."""
        return super().features // len(self.waves) * self.window

    def as_matrix(self, weight: Array) -> Array:
        """What the features weigh in a weight as it is stored."""
        return self.seen(super().as_matrix(weight))

    def stored(self, matrix: Array, kind: npt.DTypeLike | None = None) -> Array:
        """The stored weight, with other values for the features."""
        old = values(self.use.constant)
        change = (matrix - self.as_matrix(old)).reshape(*matrix.shape[:2], -1, self.window) @ self.waves.T
        return super().stored(super().as_matrix(old) + change.reshape(*matrix.shape[:2], -1), kind)

    def seen(self, rows: Array) -> Array:
        """Rows of windows, shape [groups, rows, channels * kernel], as features."""
        found = rows.reshape(*rows.shape[:2], -1, len(self.waves)) @ self.waves.astype(rows.dtype)
        return np.asarray(found.reshape(*rows.shape[:2], -1))


def _waves(kernel: Sequence[int], most: int) -> Array:
    """The `most` lowest frequencies of a window, the mean first (discrete cosine transform), shape [kernel, most]."""
    basis, squares = np.ones((1, 1)), np.zeros(1, int)
    for size in kernel:
        places, frequency = np.arange(size) + 0.5, np.arange(size)
        wave = np.cos(np.pi / size * places[:, None] * frequency)
        basis = np.kron(basis, wave / np.linalg.norm(wave, axis=0))
        squares = np.add.outer(squares, frequency**2).reshape(-1)
    return np.asarray(basis[:, np.argsort(squares, kind="stable")[:most]])


def find_consumers(analysis: Analysis, columns: bool = False, made: bool = False) -> list[Consumer]:
    """All consumers, in graph order; with `columns` also those whose weight is the first operand, as in W x.

    With `made` also those whose weight is made of a constant, as a classifier's of the word table: they come last, and
    their weights count as shared.
    """
    counts = Counter(id(use.constant) for use in analysis.uses)
    found = [
        Consumer(use.node, use, use.node.attrs.get("group", 1), counts[id(use.constant)] > 1)
        for use in analysis.uses
        if (use.slot == 1 or (columns and use.slot == 0)) and _is_consumer(use.node, use)
    ]
    uses = _made_uses(analysis) if made else ()
    return found + [Consumer(use.node, use, 1, True) for use in uses if _is_consumer(use.node, use)]


def _made_uses(analysis: Analysis) -> Iterator[ConstantUse]:
    for node in analysis.model.graph.nodes:
        if node.op in ("MatMul", "Gemm"):
            name, picked = node.inputs[1].name, Picked.of(node.inputs[1])
            if picked is not None and name in analysis.axes:
                yield ConstantUse(gs.Constant(name, picked), node, 1, analysis.axes[name], True)


class Picked(LazyValues):  # type: ignore[misc]
    """What is turned and picked of a constant, worked out whenever it is asked for."""

    def __init__(self, source: gs.Constant, steps: Sequence[gs.Node]) -> None:
        self.source, self.steps = source, steps
        self.shape = self._followed(np.broadcast_to(np.int8(0), source.shape)).shape
        self.dtype = np.dtype(source.dtype)
        self.nbytes = prod(self.shape) * self.dtype.itemsize

    @classmethod
    def of(cls, tensor: gs.Tensor) -> Picked | None:
        """How a tensor is made of a constant by Transpose and Gather along one dimension; None where it is not."""
        steps: list[gs.Node] = []
        while isinstance(tensor, gs.Variable):
            node = tensor.inputs[0] if tensor.inputs else None
            picks = node is not None and node.op == "Gather" and isinstance(node.inputs[1], gs.Constant)
            if node is None or not (node.op == "Transpose" or (picks and len(node.inputs[1].shape) == 1)):
                return None
            steps.insert(0, node)
            tensor = node.inputs[0]
        return cls(tensor, steps) if isinstance(tensor, gs.Constant) and steps else None

    def load(self) -> Array:
        """The array."""
        return self._followed(values(self.source))

    def _followed(self, array: Array) -> Array:
        for node in self.steps:
            if node.op == "Transpose":
                array = np.transpose(array, node.attrs.get("perm"))
            else:
                array = np.take(array, values(node.inputs[1]), axis=node.attrs.get("axis", 0))
        return array


def _is_consumer(node: gs.Node, use: ConstantUse) -> bool:
    if node.op not in ("Conv", "Gemm", "MatMul") or node.domain not in (None, "", "ai.onnx"):
        return False
    if (
        not isinstance(node.inputs[1 - use.slot], gs.Variable)
        or np.dtype(use.constant.dtype).kind not in "fV"
    ):
        return False
    if node.op == "Conv":
        return use.slot == 1
    if use.slot == 0 and node.attrs.get("transB"):
        return False
    plain = all(
        node.attrs.get(name, normal) == normal
        for name, normal in (("alpha", 1.0), ("beta", 1.0), ("transA", 0))
    )
    return len(use.axes) == 2 and plain


def consumers_of(atom: Axis, consumers: list[Consumer]) -> list[Consumer]:
    """The consumers that sum over `atom`."""
    return [c for c in consumers if atom in atoms(c.input_axis)]


def positions(axis: Axis, atom: Axis) -> Index | None:
    """The entry of `atom` at each place of `axis`, -1 where there is none; None where there are two. Shape [size]."""
    axis = find(axis)
    if axis is atom:
        return np.arange(axis.size[0])
    if axis.kind is Kind.ATOM:
        return np.full(axis.size[0], -1)
    if axis.kind is Kind.CONCAT:
        pieces = [positions(p, atom) for p in parts(axis)]
        return (
            None if any(p is None for p in pieces) else np.concatenate([p for p in pieces if p is not None])
        )
    own = factors(axis)
    at = [i for i, f in enumerate(own) if atom in atoms(f)]
    inner = positions(own[at[0]], atom) if len(at) == 1 else None
    if inner is None:
        return None if at else np.full(axis.size[0], -1)
    shape = [f.size[0] for f in own]
    place = [-1 if i == at[0] else 1 for i in range(len(own))]
    return np.broadcast_to(inner.reshape(place), shape).reshape(-1)
