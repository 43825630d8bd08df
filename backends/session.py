"""Sessions of ONNX Runtime: how a model is loaded, and what goes in and comes out."""

from __future__ import annotations

import ctypes
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort

from pruneopt.arrays import Array, Feeds
from pruneopt.backends.cores import share
from pruneopt.backends.room import make_room
from pruneopt.errors import PruneoptError
from pruneopt.frontends.runtime import Handover, for_runtime
from pruneopt.model import Model

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


class Session:
    """A model that ONNX Runtime has loaded.

    `outputs` names the tensors to return, any in the main graph (default: the outputs of the model). For each
    of `shapes` the size of that tensor is returned as well, as an int64 array named `shape_key(name)`.
    `optimize=False` runs the graph as it is written, which also loads faster. With `profile`, the start of a
    file's path, the times of all kernels are written down. `library` is a file with kernels of the model's own.
    `lean` makes no second copies of large weights, which costs a little time. The threads of a session that is
    `timed` keep to cores of their own. Raises `PruneoptError` where ONNX Runtime cannot load the model.
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
        timed: bool = False,
    ) -> None:
        self._model = for_runtime(model)  # the session reads weights where they are
        make_room(self._model.weights)
        _return(self._model.proto.graph, outputs, shapes)
        options = _options(self._model, optimize, profile, library, lean)
        # Plain runs check models, they do not time them: no core need wait while a large one is read.
        reads = not optimize and self._model.in_files > LARGE_MODEL
        options.intra_op_num_threads = 0 if reads else threads
        self.cores = share(options, threads) if timed else []
        self._session = _loaded(self._model, options)
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


def _options(model: Handover, optimize: bool, profile: str, library: Path | None, lean: bool) -> Any:
    """`onnxruntime.SessionOptions`, but for the number of threads."""
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
    return options


def _loaded(model: Handover, options: Any) -> Any:
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


def _array(value: Any) -> Any:
    """An OrtValue as an array of its own memory, a list of them, or None."""
    if not value.has_value():
        return None
    kind = FOREIGN.get(value.data_type())
    if kind is None or not value.is_tensor():
        return value.numpy()
    content = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return np.frombuffer(content, kind).reshape(value.shape())
