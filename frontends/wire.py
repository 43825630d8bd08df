"""Model files at the level of protobuf's wire format: weights stay where they are instead of being parsed.

A message is a run of fields, each a tag (number << 3 | wire type) and a value.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass

Buffer = bytes | mmap.mmap

LEAVE = 4096  # bytes from which a weight is left in the file
MODEL_GRAPH, GRAPH_INITIALIZER, TENSOR_RAW_DATA = 7, 5, 9

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class Field:
    """A field of a message: positions of its tag, its value and its end."""

    number: int
    kind: int
    tag: int
    start: int
    end: int


def length_prefix(number: int, size: int) -> bytes:
    """Tag and length that stand before `size` bytes of a field; `number` below 16."""
    result = bytearray([number << 3 | _BYTES])
    while size > 127:
        result.append(size & 127 | 128)
        size >>= 7
    result.append(size)
    return bytes(result)


def slim(data: Buffer) -> tuple[bytes, dict[int, tuple[int, int]]]:
    """A ModelProto without the raw data of the main graph's large initializers.

    Returns the smaller message, and (start, end) of the data left out, by the index of the initializer.
    Raises ValueError when the bytes are no message.
    """
    graphs = [field for field in _fields(data, 0, len(data)) if field.number == MODEL_GRAPH]
    if len(graphs) != 1 or graphs[0].kind != _BYTES:
        return bytes(data[:]), {}
    graph, spans = _slim_graph(data, graphs[0])
    parts = (data[: graphs[0].tag], length_prefix(MODEL_GRAPH, len(graph)), graph, data[graphs[0].end :])
    return b"".join(parts), spans


def _slim_graph(data: Buffer, graph: Field) -> tuple[bytes, dict[int, tuple[int, int]]]:
    parts, spans, copied, index = [], {}, graph.start, 0
    for field in _fields(data, graph.start, graph.end):
        if field.number != GRAPH_INITIALIZER or field.kind != _BYTES:
            continue
        raw = _raw_data(data, field)
        if raw is not None:
            tensor = data[field.start : raw.tag] + data[raw.end : field.end]
            parts += [data[copied : field.tag], length_prefix(GRAPH_INITIALIZER, len(tensor)), tensor]
            spans[index] = (raw.start, raw.end)
            copied = field.end
        index += 1
    parts.append(data[copied : graph.end])
    return b"".join(parts), spans


def _raw_data(data: Buffer, tensor: Field) -> Field | None:
    if tensor.end - tensor.start < LEAVE:
        return None
    found = [f for f in _fields(data, tensor.start, tensor.end) if f.number == TENSOR_RAW_DATA]
    if len(found) != 1 or found[0].kind != _BYTES or found[0].end - found[0].start < LEAVE:
        return None
    return found[0]


def _fields(data: Buffer, start: int, end: int) -> Iterator[Field]:
    position = start
    while position < end:
        key, value = _varint(data, position, end)
        kind = key & 7
        if kind == _BYTES:
            size, value = _varint(data, value, end)
            stop = value + size
        elif kind == _VARINT:
            _, stop = _varint(data, value, end)
        elif kind in (_FIXED64, _FIXED32):
            stop = value + (8 if kind == _FIXED64 else 4)
        else:
            raise ValueError(f"wire type {kind} at byte {position}")
        if stop > end:
            raise ValueError(f"a field at byte {position} reaches beyond its message")
        yield Field(key >> 3, kind, position, value, stop)
        position = stop


def _varint(data: Buffer, position: int, end: int) -> tuple[int, int]:
    """A base-128 number and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= end:
            raise ValueError("the message ends within a number")
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise ValueError(f"a number at byte {position} is too long")
