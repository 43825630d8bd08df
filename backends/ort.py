"""ONNX Runtime on the CPU: runs models, looks at what happens inside them, times them against each other."""

import ctypes
import re
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort

from pruneopt.arrays import Array, Feeds
from pruneopt.backends.room import make_room
from pruneopt.backends.timings import Timings
from pruneopt.backends.turns import Timing, interleaved
from pruneopt.errors import PruneoptError
from pruneopt.frontends.runtime import Handover, for_runtime
from pruneopt.model import Model

if TYPE_CHECKING:
    from pruneopt.backends.kernels import Kernels
    from pruneopt.backends.tvm.clock import Clock

Shape = tuple[int, ...]

# Bytes of intermediate tensors that `observe` holds at once.
CHUNK = 256 << 20
# Bytes of weights in files from which on memory is spared: no packed copies.
LARGE_MODEL = 1 << 30
# The same, of all weights, where time is not measured.
LARGE = 1 << 28
# Whether the system says the time of one thread to the microsecond.
FINE = time.get_clock_info("thread_time").resolution < 1e-6
# Types that ONNX Runtime's Python interface neither takes nor gives as NumPy arrays.
FOREIGN: dict[str, np.dtype[Any]] = {
    "tensor(bfloat16)": np.dtype(ml_dtypes.bfloat16),
    "tensor(float8e4m3fn)": np.dtype(ml_dtypes.float8_e4m3fn),
    "tensor(float8e4m3fnuz)": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "tensor(float8e5m2)": np.dtype(ml_dtypes.float8_e5m2),
    "tensor(float8e5m2fnuz)": np.dtype(ml_dtypes.float8_e5m2fnuz),
}
# Ops whose outputs are sequences or optionals: these have no shape.
SHAPELESS = {"SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceMap"}
SHAPELESS |= {"SplitToSequence", "Optional", "StringSplit", "ZipMap"}


class Session:
    """A model that ONNX Runtime has loaded.

    `outputs` names the tensors to return, any in the main graph (default: the outputs of the model). For each
    of `shapes` the size of that tensor is returned as well, as an int64 array named `shape_key(name)`.
    `optimize=False` runs the graph as it is written, which also loads faster. With `profile`, the start of a
    file's path, the times of all kernels are written down. `library` is a file with kernels of the model's own.
    `lean` makes no second copies of large weights, which costs a little time. Raises `PruneoptError` where ONNX
    Runtime cannot load the model.
    """

    def __init__(
        self,
        model: Model,
        outputs: Sequence[str] | None = None,
        threads: int = 1,
        optimize: bool = True,
        shapes: Sequence[str] = (),
        profile: str = "",
        library: Path | None = None,
        lean: bool = False,
    ) -> None:
        self._model = for_runtime(model)  # the session reads weights where they are
        make_room(self._model.weights)
        _return(self._model.proto.graph, outputs, shapes)
        self._session = _loaded(self._model, threads, optimize, profile, library, lean)
        # One thread's own time leaves out what other programs take from it.
        self.clock = time.thread_time if threads == 1 and FINE else time.perf_counter
        self.outputs: list[str] = [each.name for each in self._session.get_outputs()]
        ends = [*self._session.get_inputs(), *self._session.get_outputs()]
        self._types: dict[str, str] = {each.name: each.type for each in ends}
        self._foreign = any(kind in FOREIGN for kind in self._types.values())

    def run(self, feeds: Feeds) -> dict[str, Any]:
        """Output name -> array (a list of arrays for a sequence, None for an absent optional).

        bfloat16 and float8 tensors go in and out as `ml_dtypes` arrays. Raises `PruneoptError` where the
        model refuses the feeds. Feeds may hold more than the model takes: a pass may have dropped an input.
        """
        feeds = {name: array for name, array in feeds.items() if name in self._types}
        try:
            found = self._run_foreign(feeds) if self._foreign else self._session.run(self.outputs, feeds)
        except Exception as error:  # ONNX Runtime raises a dozen unrelated classes
            raise PruneoptError(f"ONNX Runtime could not run the model: {_reason(error)}") from error
        return dict(zip(self.outputs, found, strict=True))

    def profiled(self) -> str:
        """Ends profiling; the path of the file with the times."""
        return str(self._session.end_profiling())

    def _run_foreign(self, feeds: Feeds) -> list[Any]:
        values = {name: self._value(name, array) for name, array in feeds.items()}
        return [_array(value) for value in self._session.run_with_ort_values(self.outputs, values)]

    def _value(self, name: str, array: Array) -> Any:
        kind = FOREIGN.get(self._types.get(name, ""))
        if kind is None or array.dtype != kind:
            return ort.OrtValue.ortvalue_from_numpy(array)
        code = onnx.helper.np_dtype_to_tensor_dtype(kind)
        bits = np.ascontiguousarray(array).view(np.int16 if kind.itemsize == 2 else np.uint8)
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, code)


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


def shapes_and_values(
    model: Model, feeds: Feeds, wanted: Collection[str] = ()
) -> tuple[dict[str, Shape], dict[str, Array]]:
    """One run of an `Observer`, for when a second run is not needed."""
    return Observer(model, wanted).run(feeds)


def observe(
    model: Model, feeds: Feeds, names: Sequence[str], limit: int = CHUNK
) -> Iterator[tuple[str, Array]]:
    """(name, value) of each named tensor, in order, holding about `limit` bytes of them at a time.

    The model runs once to learn the sizes and then once for each chunk; a tensor larger than `limit` is a
    chunk of its own.
    """
    shapes, _ = shapes_and_values(model, feeds)
    for chunk in _chunks(names, shapes, limit):
        found = Session(model, chunk, optimize=False).run(feeds)
        for name in chunk:
            yield name, found.pop(name)


def _chunks(names: Iterable[str], shapes: dict[str, Shape], limit: int) -> Iterator[list[str]]:
    chunk: list[str] = []
    held = 0
    for name in names:
        size = 4 * prod(shapes.get(name, ()))
        if chunk and held + size > limit:
            yield chunk
            chunk, held = [], 0
        chunk.append(name)
        held += size
    if chunk:
        yield chunk


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
    ) -> tuple["Timing", "Timing"]:
        """Latency of two models on the same feeds, in turns, for about so many seconds."""
        sessions = [Session(a, threads=threads), Session(b, threads=threads)]
        first, second = interleaved(sessions, [feeds, feeds], seconds)
        return first, second

    def kernels(self, model: Model, feeds: Feeds, threads: int = 1, seconds: float = 0.2) -> "Kernels":
        """Where the time of one run goes."""
        from pruneopt.backends.kernels import kernel_times  # which builds on this module

        return kernel_times(model, feeds, threads, seconds)

    def timings(self, threads: int = 1) -> Timings:
        """What has been measured before on this machine."""
        return Timings(threads)

    def zeros(self, target: str = "host", threads: int = 1) -> "Clock":
        """How fast kernels for sparse weights are. Raises PruneoptError where TVM is missing."""
        from pruneopt.backends.tvm.clock import Clock  # which builds on this module

        return Clock(target, threads)


def shape_key(name: str) -> str:
    """The name under which a `Session` returns the shape of tensor `name`."""
    return f"{name}//shape"


def _return(graph: onnx.GraphProto, outputs: Sequence[str] | None, shapes: Sequence[str]) -> None:
    """Makes `graph` return the tensors `outputs` (None: its own outputs) and the shapes of `shapes`."""
    typed = {output.name: output for output in graph.output}
    names = list(typed if outputs is None else dict.fromkeys(outputs))
    graph.node.extend(onnx.helper.make_node("Shape", [name], [shape_key(name)]) for name in shapes)
    names += map(shape_key, shapes)
    del graph.output[:]
    # ONNX Runtime infers the type of an output that has only a name.
    graph.output.extend(typed.get(name) or onnx.ValueInfoProto(name=name) for name in names)


def _loaded(
    model: Handover, threads: int, optimize: bool, profile: str, library: Path | None, lean: bool
) -> Any:
    options = ort.SessionOptions()
    if library is not None:
        options.register_custom_ops_library(str(library.resolve()))
    options.enable_profiling = bool(profile)
    options.profile_file_prefix = profile
    if model.arrays:
        held = [ort.OrtValue.ortvalue_from_numpy(array) for array in model.arrays.values()]
        options.add_external_initializers(list(model.arrays), held)
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", model.root)
    options.log_severity_level = 4
    large = model.in_files > LARGE_MODEL
    # Plain runs check models, they do not time them: no core need wait while a large one is read.
    options.intra_op_num_threads = threads if optimize or not large else 0
    options.inter_op_num_threads = 1
    # Idle threads of one session must not take time from another that is being measured.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    spare = lean and model.weights > LARGE
    options.enable_cpu_mem_arena = not spare  # an output that is kept would keep all of the arena
    if not optimize or large or spare:  # packed weights are a second copy
        options.add_session_config_entry("session.disable_prepacking", "1")
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        # Shape nodes run first, so that the tensors they measure are freed early.
        options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    try:
        return ort.InferenceSession(
            model.proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime raises a dozen unrelated classes
        raise PruneoptError(f"ONNX Runtime could not load the model: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """ONNX Runtime's own words, one line, without its error codes, C++ files and C++ signatures."""
    text = " ".join(str(error).split())
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"\S+\.(?:cc|cpp|cu|h):\d+ (?:[^()]*\((?:[^()]|\([^()]*\))*\)(?: const)? )?", "", text)
    text = re.sub(r"Load model from .*? failed: ?", "", text)
    return text[:300]


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


def _array(value: Any) -> Any:
    """An OrtValue as an array of its own memory, a list of them, or None."""
    if not value.has_value():
        return None
    kind = FOREIGN.get(value.data_type())
    if kind is None or not value.is_tensor():
        return value.numpy()
    content = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return np.frombuffer(content, kind).reshape(value.shape())
