"""Tensor bytes that lie in a file beside the model: found safely, mapped, never read whole."""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import onnx
from numpy.typing import NDArray

from pruneopt.errors import PruneoptError

Bytes = NDArray[np.uint8]
Stamp = tuple[int, int, int, int]  # device, inode, size, time of change: a file's identity

CHUNK = 8 << 20  # bytes per read when copying

# One mapping per file, alive as long as an array looks into it: a model may have more tensors than a
# process may have open files.
_mappings: weakref.WeakValueDictionary[tuple[Path, Stamp], mmap.mmap] = weakref.WeakValueDictionary()


@dataclass(frozen=True)
class External:
    """A range of bytes of a file, good as long as the file stays as it was."""

    path: Path
    offset: int
    length: int
    stamp: Stamp

    def view(self) -> Bytes:
        """The bytes, read-only, mapped: shape [length]. Raises PruneoptError when the file has changed."""
        if not self.length:
            return np.zeros(0, np.uint8)
        return np.frombuffer(_mapping(self.path, self.stamp), np.uint8, self.length, self.offset)

    def chunks(self) -> Iterator[bytes]:
        """The bytes in pieces, read rather than mapped, so that copying does not fill memory.

        Raises PruneoptError when the file has changed.
        """
        left = self.length
        with _open(self.path, self.stamp) as file:
            file.seek(self.offset)
            while left:
                chunk = file.read(min(CHUNK, left))
                if not chunk:
                    raise _changed(self.path)
                left -= len(chunk)
                yield chunk


def stamp_of(path: Path) -> Stamp:
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _open(path: Path, stamp: Stamp) -> FileIO:
    try:
        if stamp_of(path) == stamp:
            return FileIO(path)
    except OSError:
        raise _changed(path) from None
    raise _changed(path)


def _mapping(path: Path, stamp: Stamp) -> mmap.mmap:
    mapping = _mappings.get((path, stamp))
    if mapping is None:
        with _open(path, stamp) as file:
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        _mappings[path, stamp] = mapping
    return mapping


def _changed(path: Path) -> PruneoptError:
    return PruneoptError(f"{path} has changed or gone since the model was loaded: load the model again")


def is_external(tensor: onnx.TensorProto) -> bool:
    return tensor.data_location == onnx.TensorProto.EXTERNAL


def locate(tensor: onnx.TensorProto, folder: Path, size: int) -> External:
    """Where the `size` bytes of an external tensor lie.

    Raises PruneoptError: the location leaves the folder, the file is missing or too short.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    path = _inside(folder, entries.get("location", ""), tensor.name)
    offset = _number(entries, "offset", 0, tensor.name)
    length = _number(entries, "length", size, tensor.name)
    if length != size:
        raise PruneoptError(
            f"weight '{tensor.name}' has {length} bytes in {path}, but its shape and type need {size}: "
            "the model is damaged, export it again"
        )
    stamp = _stamp(path, tensor.name)
    available = stamp[2]
    if offset + length > available:
        raise PruneoptError(
            f"weight '{tensor.name}' needs bytes {offset} to {offset + length} of {path}, "
            f"which has only {available}: the file is cut short, copy it again"
        )
    return External(path, offset, length, stamp)


def _inside(folder: Path, location: str, name: str) -> Path:
    pure = PurePosixPath(location)
    outside = not location or pure.is_absolute() or ".." in pure.parts or PureWindowsPath(location).drive
    path = folder / location
    if outside or "\0" in location or not path.resolve().is_relative_to(folder.resolve()):
        raise PruneoptError(
            f"weight '{name}' lies at {location!r}, outside the model's folder {folder}, and is not read: "
            "put the data file beside the model"
        )
    return path


def _number(entries: dict[str, str], key: str, default: int, name: str) -> int:
    text = entries.get(key, str(default))
    if not text.isdecimal():
        raise PruneoptError(
            f"weight '{name}' has the external {key} {text!r}, which is no number: the model is damaged"
        )
    return int(text)


def _stamp(path: Path, name: str) -> Stamp:
    if not path.is_file():
        raise PruneoptError(
            f"weight '{name}' lies in {path}, which does not exist: put the data file beside the model"
        )
    if not os.access(path, os.R_OK):
        raise PruneoptError(f"weight '{name}' lies in {path}, which may not be read: check its permissions")
    return stamp_of(path)
