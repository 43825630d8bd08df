"""`Model` to a file: atomic, one weight at a time, large weights beside the model."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto

from pruneopt.errors import PruneoptError
from pruneopt.frontends.exporter import Exporter, inline
from pruneopt.frontends.external import CHUNK, Bytes, External
from pruneopt.frontends.weights import header_of, payload, size
from pruneopt.frontends.wire import GRAPH_INITIALIZER, MODEL_GRAPH, TENSOR_RAW_DATA, length_prefix
from pruneopt.model import Model, constants

INLINE_LIMIT = 1_900_000_000  # bytes of weights up to which a model is one file
EXTERNAL_FROM = 1024  # smaller weights stay inline: runtimes read shapes from them


def save(model: Model, path: str | Path) -> None:
    """Writes the model, whole or not at all; weights go to `<name>.data` beside it when they are too large
    for one file or came from such a file.

    Raises PruneoptError when the place cannot be written or holds the model's own source.
    """
    target = Path(path).resolve()
    beside = target.with_name(target.name + ".data")
    total = sum(size(constant) for constant in constants(model.graph))
    external = bool(model.sources) or total > INLINE_LIMIT
    check_target(model, target, beside if external else None)
    try:
        if external:
            _save_external(model, target, beside)
        else:
            with _replacing(target) as file:
                write_inline(model, file)
    except OSError as error:
        raise PruneoptError(f"{target} cannot be written: {error.strerror or error}") from None


def check_target(model: Model, target: Path, beside: Path | None) -> None:
    if not target.parent.is_dir():
        raise PruneoptError(f"{target} cannot be written: the folder {target.parent} does not exist")
    own = [path for path in (model.path, *model.sources) if path is not None]
    for file in (target, beside):
        if file is None or not file.exists():
            continue
        if not stat.S_ISREG(file.stat().st_mode):
            raise PruneoptError(f"{file} is not a regular file: choose another output")
        if any(source.exists() and file.samefile(source) for source in own):
            raise PruneoptError(f"{file} belongs to the model being read: choose another output")


def write_inline(model: Model, file: IO[bytes]) -> None:
    """The model as one message, each weight written when its turn comes."""
    later: list[gs.Constant] = []

    def place(constant: gs.Constant, proto: onnx.GraphProto, main: bool) -> None:
        if main:
            later.append(constant)
        else:
            inline(constant, proto, main)

    exporter = Exporter(model.graph, place, model.header.ir_version)
    graph = exporter.graph(model.graph, onnx.GraphProto()).SerializeToString()
    frames = [_frame(constant) for constant in later]
    # A message is its fields one after another, and a repeated field may stand anywhere among them.
    file.write(model.header.SerializeToString())
    file.write(length_prefix(MODEL_GRAPH, len(graph) + sum(len(head) + nbytes for head, nbytes in frames)))
    file.write(graph)
    for (head, nbytes), constant in zip(frames, later, strict=True):
        file.write(head)
        file.writelines(_checked(payload(constant)[1], nbytes, constant.name))


def _frame(constant: gs.Constant) -> tuple[bytes, int]:
    """What stands before the data of an initializer, and the size of that data."""
    header, nbytes = header_of(constant), size(constant)
    message = header.SerializeToString()
    if header.data_type != TensorProto.STRING:
        message += length_prefix(TENSOR_RAW_DATA, nbytes)
    return length_prefix(GRAPH_INITIALIZER, len(message) + nbytes) + message, nbytes


def _checked(data: Bytes | External | None, nbytes: int, name: str) -> Iterator[bytes | memoryview]:
    """The data of a weight in pieces. Raises OSError where they are not `nbytes`."""
    given = 0
    for chunk in _chunks(data):
        yield chunk
        given += len(chunk)
    if given != nbytes:
        raise OSError(f"weight '{name}' gave {given} bytes instead of {nbytes}")


def _chunks(data: Bytes | External | None) -> Iterator[bytes | memoryview]:
    if isinstance(data, External):
        yield from data.chunks()
    elif data is not None:
        view = data.data
        yield from (view[start : start + CHUNK] for start in range(0, len(view), CHUNK))


def _save_external(model: Model, target: Path, beside: Path) -> None:
    layout = _Layout(beside.name)
    proto = onnx.ModelProto()
    proto.CopyFrom(model.header)
    Exporter(model.graph, layout.place, model.header.ir_version).graph(model.graph, proto.graph)
    fresh = not beside.exists()
    try:
        # The inner one is moved into place first: a model is never there without its data.
        with _replacing(target) as file:
            file.write(proto.SerializeToString())
            if layout.ranges:
                with _replacing(beside) as data:
                    layout.write(data)
    except BaseException:
        if fresh:
            beside.unlink(missing_ok=True)
        raise


class _Layout:
    """Which range of the data file each weight gets."""

    def __init__(self, location: str) -> None:
        self.location = location
        self.end = 0
        self.ranges: list[tuple[int, gs.Constant]] = []

    def place(self, constant: gs.Constant, proto: onnx.GraphProto, main: bool) -> None:
        nbytes = size(constant)
        if nbytes < EXTERNAL_FROM:
            inline(constant, proto, main)
            return
        # Page-aligned where it pays, so that a runtime can map the weight by itself.
        alignment = 4096 if nbytes >= 1 << 20 else 64
        offset = -(-self.end // alignment) * alignment
        self.ranges.append((offset, constant))
        self.end = offset + nbytes
        tensor = proto.initializer.add()
        tensor.CopyFrom(header_of(constant))
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", self.location), ("offset", offset), ("length", nbytes)):
            tensor.external_data.add(key=key, value=str(value))

    def write(self, file: IO[bytes]) -> None:
        """Each weight at its place, on all cores."""
        file.truncate(self.end)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda each: _write_at(file.name, *each), self.ranges))


def _write_at(path: str, offset: int, constant: gs.Constant) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.writelines(_checked(payload(constant)[1], size(constant), constant.name))


@contextmanager
def _replacing(target: Path) -> Iterator[IO[bytes]]:
    """A new file that takes the place of `target` when all went well, and else leaves no trace."""
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:100]}.", suffix=".tmp")
    try:
        os.close(handle)
        with open(name, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, _mode(target))
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def _mode(target: Path) -> int:
    """Permissions of the file that is replaced, or those that a new file gets."""
    if target.exists():
        return stat.S_IMODE(target.stat().st_mode)
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
