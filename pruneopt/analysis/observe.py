"""What the graph's tensors look like when it runs: sizes of all, values of those that carry no data.

A tensor is *derived* when it depends on constants and shapes only. Its value is read off the runs. It is
*static* when, besides, no dynamic dimension can reach it: that is decided entry by entry along the
chain (`static_values`), never from two runs agreeing by chance (`min(length, 512)`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.analysis.axes import Size
from pruneopt.analysis.bodies import SEEN, has_body, inner_tensors, nodes_of, opened
from pruneopt.arrays import Array, Feeds
from pruneopt.errors import PruneoptError
from pruneopt.model import RANDOM, Model, values

MOST = 1 << 24  # bytes of a derived value that is kept

Run = tuple[dict[str, tuple[int, ...]], dict[str, Array]]  # shapes of all tensors, values of the watched


class Observer(Protocol):
    """A loaded model that tells what its tensors look like."""

    def run(self, feeds: Feeds) -> Run:
        """Shapes of every tensor, and values of those it was made to watch, in one run."""


@dataclass
class Observation:
    """Sizes and values of a graph's tensors over a few runs.

    Attributes:
        runs: number of runs.
        shapes: per tensor one `Size` (a tuple over the runs) per dimension; absent where unknown.
        values: per derived tensor its value in each run.
        static: per derived tensor that no dynamic dimension reaches, its value.
        feeds: the inputs of the runs.
    """

    runs: int
    shapes: dict[str, tuple[Size, ...]]
    values: dict[str, tuple[Array, ...]] = field(default_factory=dict)
    static: dict[str, Array] = field(default_factory=dict)
    feeds: tuple[Feeds, ...] = ()


def observe(model: Model, observer: Observer, feeds: Sequence[Feeds], watched: set[str]) -> Observation:
    """Run `model` on each of `feeds` and collect what its tensors look like.

    Args:
        model: the model that `observer` has loaded.
        observer: runs it and returns the values of `watched`, which are `derived_tensors`.
        feeds: one batch per run, all of different sizes where sizes may differ.
        watched: names of derived tensors.

    Tensors whose rank differs between runs are left out.
    """
    return observation(model, [observer.run(batch) for batch in feeds], feeds, watched)


def observation(
    model: Model, observed: Sequence[Run], feeds: Sequence[Feeds], watched: set[str]
) -> Observation:
    """What `observe` makes of runs that were made before."""
    shapes = {
        name: tuple(zip(*(shapes[name] for shapes, _ in observed), strict=True))
        for name, shape in observed[0][0].items()
        if all(name in s and len(s[name]) == len(shape) for s, _ in observed)
    }
    found = {
        n: tuple(v[n] for _, v in observed) for n in watched if all(_is_kept(v.get(n)) for _, v in observed)
    }
    seen = Observation(len(feeds), shapes, found, feeds=tuple(feeds))
    seen.static = static_values(model.graph, seen)
    return seen


def observe_bodies(
    model: Model, seen: Observation, observer: Callable[[Model, set[str]], Observer], feeds: Sequence[Feeds]
) -> None:
    """Add what the tensors inside If, Loop and Scan look like; nothing where they cannot be run by themselves."""
    inner = inner_tensors(model.graph)
    if not inner:
        return
    watched = {name + SEEN for name in derived_tensors(model.graph) & set(inner)}

    def look(closed: Collection[tuple[str, str]]) -> None:
        copy = opened(model, closed)
        names = watched & {t.name for node in copy.graph.nodes for t in node.outputs}
        trial = observer(copy, names)
        found = observation(model, [trial.run(batch) for batch in feeds], feeds, names)
        seen.shapes |= {n: found.shapes[n + SEEN] for n in inner if n + SEEN in found.shapes}
        seen.values |= {n.removesuffix(SEEN): v for n, v in found.values.items()}
        seen.static = static_values(model.graph, seen)

    with suppress(PruneoptError):
        try:
            look(())
        except PruneoptError:
            look(_left_out(model, observer, feeds))


def _left_out(
    model: Model, observer: Callable[[Model, set[str]], Observer], feeds: Sequence[Feeds]
) -> set[tuple[str, str]]:
    """Branches of Ifs that no run takes: (first output, attribute)."""
    branching = [n for n in model.graph.nodes if n.op == "If" and n.inputs[0].inputs]
    trial = observer(model, {node.inputs[0].name for node in branching})
    runs = [trial.run(batch)[1] for batch in feeds]
    taken = {(n.outputs[0].name, bool(run[n.inputs[0].name])) for n in branching for run in runs}
    sides = {True: "then_branch", False: "else_branch"}
    return {
        (node.outputs[0].name, sides[side])
        for node in branching
        for side in sides
        if (node.outputs[0].name, side) not in taken
    }


def _is_kept(value: object) -> bool:
    """Whether a value is an array that may say something of sizes; a weight that is only moved is too large."""
    return isinstance(value, np.ndarray) and value.nbytes <= MOST


def derived_tensors(graph: gs.Graph, shapes: bool = True) -> set[str]:
    """Names of the node outputs that depend on constants and shapes only, or on constants alone."""
    derived: set[str] = set()
    for node in nodes_of(graph):
        if node.op in RANDOM or has_body(node):
            continue
        inputs = (t for t in node.inputs if t.name)
        if (shapes and node.op in ("Shape", "Size")) or all(
            isinstance(t, gs.Constant) or t.name in derived for t in inputs
        ):
            derived.update(t.name for t in node.outputs if t.name)
    return derived


def static_values(graph: gs.Graph, seen: Observation) -> dict[str, Array]:
    """Values of derived tensors none of whose entries a dynamic dimension can reach."""
    chain = _Chain(seen)
    for node in nodes_of(graph):
        for out in node.outputs:
            if out.name in seen.values:
                chain.follow(node, out)
    return chain.static


ELEMENTWISE = set(
    "Add Sub Mul Div Mod Pow Min Max Neg Abs Equal Less LessOrEqual Greater GreaterOrEqual Where And Or Xor Not "
    "Sqrt Reciprocal Floor Ceil Round Cast CastLike Identity Sign Clip Exp Log".split()
)
RESHAPES = {"Unsqueeze", "Squeeze", "Reshape", "Flatten"}


class _Chain:
    """Follows dynamic dimensions through chains of shape arithmetic, entry by entry."""

    def __init__(self, seen: Observation) -> None:
        self.seen = seen
        self.static: dict[str, Array] = {}
        self._dynamic: dict[str, Array] = {}

    def follow(self, node: gs.Node, out: gs.Tensor) -> None:
        """Record which entries of `out` a dynamic dimension can reach."""
        seen = self.seen.values[out.name]
        taint = self._taint(node, seen[0].shape) if len({v.shape for v in seen}) == 1 else None
        if taint is None or taint.shape != seen[0].shape:
            taint = np.ones(seen[0].shape, bool)
        self._dynamic[out.name] = taint
        if not taint.any():
            self.static[out.name] = seen[0]

    def _taint(self, node: gs.Node, shape: tuple[int, ...]) -> Array | None:
        """Which entries are reached, or None where the op is not followed: then all are."""
        if node.op in ("Shape", "Size"):
            return self._of_shape(node)
        found = [self._of(t) for t in node.inputs if t.name]
        inputs = [t for t in found if t is not None]
        if len(inputs) < len(found):
            return None
        if not any(t.any() for t in inputs):
            return np.zeros(shape, bool)
        if node.op in ELEMENTWISE:
            return np.broadcast_to(np.logical_or.reduce(np.broadcast_arrays(*inputs)), shape)
        if node.op == "Concat":
            return np.concatenate(inputs, node.attrs["axis"])
        if any(t.any() for t in inputs[1:]):
            return None
        if node.op in RESHAPES:
            return inputs[0].reshape(shape)
        return self._pick(node, inputs[0])

    def _of_shape(self, node: gs.Node) -> Array:
        sizes = self.seen.shapes.get(node.inputs[0].name)
        if sizes is None and isinstance(node.inputs[0], gs.Constant):
            sizes = tuple((n,) for n in node.inputs[0].shape)
        if sizes is None:
            return np.ones((), bool)  # of no vector's shape: everything is reached
        reached = np.array([len(set(s)) > 1 for s in sizes], bool)
        if node.op == "Size":
            return np.asarray(reached.any())
        return reached[slice(node.attrs.get("start", 0), node.attrs.get("end"))]

    def _pick(self, node: gs.Node, data: Array) -> Array | None:
        """Gather and Slice of a vector at known places."""
        operands = [self._known(t) for t in node.inputs[1:]]
        if data.ndim != 1 or any(o is None for o in operands):
            return None
        if node.op == "Gather":
            return np.asarray(data[operands[0].astype(int)])  # type: ignore[union-attr]
        if node.op != "Slice":
            return None
        if "starts" in node.attrs:  # opset < 10
            return data[node.attrs["starts"][0] : node.attrs["ends"][0]]
        start, end, *more = (int(o.reshape(-1)[0]) for o in operands)  # type: ignore[union-attr]
        return data[start : end : more[1] if len(more) > 1 else 1]

    def _of(self, tensor: gs.Tensor) -> Array | None:
        """Which entries are reached; None of a tensor that was not followed."""
        if isinstance(tensor, gs.Constant):
            return np.zeros(tuple(tensor.shape), bool)
        return self._dynamic.get(tensor.name)

    def _known(self, tensor: gs.Tensor) -> Array | None:
        return values(tensor) if isinstance(tensor, gs.Constant) else self.static.get(tensor.name)
