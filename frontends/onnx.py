"""ONNX files and protos to `Model` and back; see `saving` for files."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from pruneopt.errors import PruneoptError, TooLargeError
from pruneopt.frontends import wire
from pruneopt.frontends.exporter import Exporter, inline
from pruneopt.frontends.external import Bytes, External, Stamp, is_external, stamp_of
from pruneopt.frontends.importer import Importer
from pruneopt.frontends.inlining import inlined
from pruneopt.frontends.stored import Stored, stored
from pruneopt.frontends.weights import size
from pruneopt.model import Model, constants

OPSETS = range(9, 26)
MAP_FROM = 256 << 20  # bytes from which a file is mapped; a smaller one is read, and may be overwritten
PROTO_LIMIT = 2**31 - 2**24  # bytes of weights that leave protobuf's 2 GB enough room for the graph

Weights = Mapping[int, Bytes | External]  # raw data that is not in the proto, by index of the initializer

_DEFAULT_DOMAINS = ("", "ai.onnx")
_GRAPH_FIELDS = ("graph", "functions")


def load(path: str | Path) -> Model:
    """The model in a file; large weights stay where they are and are only mapped.

    Raises PruneoptError naming the file and what is wrong with it.
    """
    path = Path(path)
    proto, weights = _parse(path)
    try:
        model = _model(proto, path.parent, weights)
    except PruneoptError as error:
        raise PruneoptError(f"{path}: {error}") from None
    model.path = path
    model.sources -= {path}
    return model


def from_proto(proto: onnx.ModelProto, base: str | Path | None = None) -> Model:
    """The model in a proto, which is left as it is; `base` is the folder of its external data.

    Raises PruneoptError when the model is damaged, invalid or of an opset that is not supported.
    """
    return _model(proto, None if base is None else Path(base), {})


def to_proto(model: Model) -> onnx.ModelProto:
    """The complete model with inline data and without value_info.

    Raises TooLargeError when the weights do not fit into 2 GB.
    """
    total = sum(size(constant) for constant in constants(model.graph))
    if total > PROTO_LIMIT:
        raise TooLargeError(
            f"the weights take {total / 1e9:.1f} GB, more than one ONNX message holds: "
            "save the model to a temporary file and use that"
        )
    proto = onnx.ModelProto()
    proto.CopyFrom(model.header)
    Exporter(model.graph, inline, model.header.ir_version).graph(model.graph, proto.graph)
    return proto


def _model(proto: onnx.ModelProto, folder: Path | None, weights: Weights) -> Model:
    header = _header(proto)
    _check_versions(proto)
    structure = inlined(_hollow(proto, header)) if proto.functions else proto
    header = _header(structure)
    _check(structure, header)
    initializers = (
        stored(tensor, folder, weights.get(index)) for index, tensor in enumerate(proto.graph.initializer)
    )
    graph = Importer(folder, header.opset_import).graph(structure.graph, initializers)
    kept = (constant._values for constant in constants(graph))
    sources = (values.source for values in kept if isinstance(values, Stored))
    files = frozenset(source.path for source in sources if isinstance(source, External))
    return Model(graph, header, sources=files)


def _parse(path: Path) -> tuple[onnx.ModelProto, Weights]:
    if path.is_dir():
        raise PruneoptError(f"{path} is a folder: name the .onnx file in it")
    try:
        stamp = stamp_of(path)
        data = _map(path) if stamp[2] > MAP_FROM else path.read_bytes()
    except FileNotFoundError:
        raise PruneoptError(f"{path} does not exist: check the path") from None
    except OSError as error:
        raise PruneoptError(f"{path} cannot be read: {error.strerror}") from None
    if not data:
        raise PruneoptError(f"{path} is empty: export or copy the model again")
    try:
        message, spans = wire.slim(data)
        proto = onnx.ModelProto.FromString(message)
    except (DecodeError, ValueError):
        reason = f"{path} is not an ONNX model, or is cut short: export or copy it again"
        raise PruneoptError(reason) from None
    if not proto.HasField("graph"):
        raise PruneoptError(f"{path} is not an ONNX model: it holds no graph")
    return proto, {index: _source(path, stamp, data, *span) for index, span in spans.items()}


def _map(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _source(path: Path, stamp: Stamp, data: wire.Buffer, start: int, end: int) -> Bytes | External:
    if isinstance(data, bytes):
        return np.frombuffer(data, np.uint8, end - start, start)
    return External(path, start, end - start, stamp)


def _header(proto: onnx.ModelProto) -> onnx.ModelProto:
    header = onnx.ModelProto()
    for field, value in proto.ListFields():
        if field.name in _GRAPH_FIELDS:
            continue
        if hasattr(value, "extend"):
            getattr(header, field.name).extend(value)
        else:
            setattr(header, field.name, value)
    return header


def _check_versions(proto: onnx.ModelProto) -> None:
    if not proto.graph.node:
        raise PruneoptError("the model has no nodes: there is nothing to prune")
    if proto.ir_version > onnx.IR_VERSION:
        raise PruneoptError(
            f"the model has IR version {proto.ir_version}, the installed onnx package reads up to "
            f"{onnx.IR_VERSION}: upgrade it or export the model for an older version"
        )
    for entry in proto.opset_import:
        if entry.domain in _DEFAULT_DOMAINS and entry.version not in OPSETS:
            raise PruneoptError(
                f"the model uses opset {entry.version}, pruneopt reads {OPSETS[0]} to {OPSETS[-1]}: "
                "convert it with onnx.version_converter or export it for another opset"
            )


# What the checker rejects and runtimes run: ops that a runtime's optimiser puts into the default domain, withdrawn
# ops, outputs of unknown shape. Whether the model runs is found out by running it.
TOLERATED = ("No Op registered", "deprecated", "Field 'shape' of 'type' is required")


def _check(proto: onnx.ModelProto, header: onnx.ModelProto) -> None:
    probe = _hollow(proto, header)
    for tensor in _tensors(probe.graph):
        if is_external(tensor):
            # The checker would look for the file in the current folder.
            _blank(tensor)
    try:
        onnx.checker.check_model(probe)
    except onnx.checker.ValidationError as error:
        reason = " ".join(str(error).split("==>")[0].split())
        if any(words in reason for words in TOLERATED):
            return
        raise PruneoptError(f"the model is not valid ONNX: {reason}") from None


def _hollow(proto: onnx.ModelProto, header: onnx.ModelProto) -> onnx.ModelProto:
    """The model with every weight of the main graph replaced by an empty one of its name and type."""
    model = onnx.ModelProto()
    model.CopyFrom(header)
    model.functions.extend(proto.functions)
    for field, value in proto.graph.ListFields():
        if field.name == "initializer":
            continue
        if hasattr(value, "extend"):
            getattr(model.graph, field.name).extend(value)
        else:
            setattr(model.graph, field.name, value)
    model.graph.initializer.extend(
        onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=[0], raw_data=b"")
        for tensor in proto.graph.initializer
    )
    return model


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("g"):
                yield from _tensors(attribute.g)


def _blank(tensor: onnx.TensorProto) -> None:
    empty = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=[0], raw_data=b"")
    tensor.CopyFrom(empty)
