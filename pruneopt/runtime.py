"""Opens models that `pruneopt tune` wrote: ONNX Runtime with the library of sparse kernels beside the model.

With ONNX Runtime alone, the same in three lines:

    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library("out.kernels.so")
    session = onnxruntime.InferenceSession("out.onnx", options)
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pruneopt.backends.cores import share
from pruneopt.errors import PruneoptError


def library_of(model: str | Path) -> Path:
    """Where `pruneopt tune` puts the library of a model: `out.onnx` -> `out.kernels.so`."""
    return Path(model).with_suffix(".kernels.so")


def session_options(threads: int) -> Any:
    """`onnxruntime.SessionOptions` with so many threads, each on a core of its own, that print errors alone."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    share(options, threads)
    options.log_severity_level = 3
    return options


def session(model: str | Path, options: Any = None, library: str | Path | None = None, **other: Any) -> Any:
    """An `onnxruntime.InferenceSession` of a model with sparse kernels.

    `options` are `onnxruntime.SessionOptions`, `other` goes to the session as it is; `library` is that of the
    model where it is not beside it. Raises PruneoptError where the library is missing, or was made for another
    processor, ONNX Runtime or model.
    """
    import onnxruntime

    path = Path(library) if library is not None else library_of(model)
    options = options or onnxruntime.SessionOptions()
    other.setdefault("providers", ["CPUExecutionProvider"])
    if not path.exists():
        raise PruneoptError(
            f"{path} is missing: it holds the sparse kernels of {model}; `pruneopt tune` writes both"
        )
    try:
        options.register_custom_ops_library(str(path.resolve()))  # else the system's folders are searched
        return onnxruntime.InferenceSession(str(model), options, **other)
    except Exception as error:  # ONNX Runtime raises a dozen unrelated classes
        raise PruneoptError(f"{model} cannot be run with {path.name}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """What the library or ONNX Runtime says, in one line."""
    text = " ".join(str(error).split())
    if missing := re.search(r"pruneopt:(sparse_\w+)\S* is not a registered", text):
        return f"it has no kernel {missing.group(1)}: model and library are not of the same `pruneopt tune`"
    found = re.search(r"pruneopt: (.*)", text)
    return found.group(1) if found else text[:300]
