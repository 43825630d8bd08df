"""ONNX Runtime on the CPU: runs models, looks at what happens inside them, times them against each other."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import onnx_graphsurgeon as gs

from pruneopt.arrays import Array, Feeds
from pruneopt.backends.kernels import Kernels, kernel_times
from pruneopt.backends.session import Session, shape_key
from pruneopt.backends.timings import Timings
from pruneopt.backends.turns import Timing, interleaved
from pruneopt.errors import PruneoptError
from pruneopt.model import Model

if TYPE_CHECKING:
    from pruneopt.backends.tvm.clock import Clock

Shape = tuple[int, ...]

# Ops whose outputs are sequences or optionals: these have no shape.
SHAPELESS = {"SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceMap"}
SHAPELESS |= {"SplitToSequence", "Optional", "StringSplit", "ZipMap"}


class Observer:
    """Shapes of all tensors of the main graph, and values of a few, for any number of runs.

    Only the `wanted` values are kept: of the others a Shape node says the size, and ONNX Runtime frees them
    as soon as their consumers have run. Constants and sequences are left out. Raises `PruneoptError` where a
    wanted name is no node output of the main graph.
    """

    def __init__(self, model: Model, wanted: Collection[str] = ()) -> None:
        self._names = _tensors(model.graph)
        self._wanted = [name for name in self._names if name in wanted]
        if unknown := set(wanted).difference(t.name for node in model.graph.nodes for t in node.outputs):
            raise PruneoptError(f"{min(unknown)!r} is not a tensor that a node of the main graph makes")
        self._measured = True
        try:
            self._session = Session(model, self._wanted, optimize=False, shapes=self._names, lean=True)
        except PruneoptError:  # ONNX Runtime has no Shape for float8: keep all tensors instead
            self._measured = False
            self._session = Session(model, self._names, optimize=False, lean=True)

    def run(self, feeds: Feeds) -> tuple[dict[str, Shape], dict[str, Array]]:
        """(tensor name -> shape, wanted name -> value) of one run; the inputs' shapes are included."""
        found = self._session.run(feeds)
        shapes = {name: tuple(array.shape) for name, array in feeds.items()}
        for name in self._names:
            shapes[name] = tuple(found[shape_key(name)].tolist()) if self._measured else found[name].shape
        return shapes, {name: found[name] for name in self._wanted}


class OnnxRuntime:
    """ONNX Runtime as the backend that passes see."""

    def session(
        self, model: Model, outputs: Sequence[str] | None = None, threads: int = 1, optimize: bool = True
    ) -> Session:
        """Load a model."""
        return Session(model, outputs, threads, optimize, lean=True)

    def observer(self, model: Model, wanted: Collection[str] = ()) -> Observer:
        """Load a model so that its insides can be seen."""
        return Observer(model, wanted)

    def compare(
        self, a: Model, b: Model, feeds: Feeds, threads: int = 1, seconds: float = 1.0
    ) -> tuple[Timing, Timing]:
        """Latency of two models on the same feeds, in turns, for about so many seconds."""
        sessions = [Session(a, threads=threads, timed=True), Session(b, threads=threads, timed=True)]
        first, second = interleaved(sessions, [feeds, feeds], seconds)
        return first, second

    def kernels(self, model: Model, feeds: Feeds, threads: int = 1, seconds: float = 0.2) -> Kernels:
        """Where the time of one run goes."""
        return kernel_times(model, feeds, threads, seconds)

    def timings(self, threads: int = 1) -> Timings:
        """What has been measured before on this machine."""
        return Timings(threads)

    def zeros(self, target: str = "host", threads: int = 1) -> Clock:
        """How fast kernels for sparse weights are. Raises PruneoptError where TVM is missing."""
        from pruneopt.backends.tvm.clock import Clock

        return Clock(target, threads)


def _tensors(graph: gs.Graph) -> list[str]:
    """Names of the tensors that the nodes of the main graph make, sequences and optionals left out."""
    names: list[str] = []
    shapeless: set[str] = set()
    for node in graph.nodes:
        made = [tensor for tensor in node.outputs if tensor.name]
        if node.op in SHAPELESS or (node.op == "Identity" and node.inputs[0].name in shapeless):
            shapeless |= {tensor.name for tensor in made}
            continue
        if node.op == "Loop":  # a state is what it was at first
            states = zip(node.inputs[2:], node.outputs, strict=False)
            shapeless |= {out.name for state, out in states if state.name in shapeless}
        names += [t.name for t in made if t.type in (None, "tensor_type") and t.name not in shapeless]
    return names
