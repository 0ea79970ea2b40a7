"""An assembled stage -> the bytes of its .tflite file, weights inside or behind the flatbuffer."""

from __future__ import annotations

import struct
from typing import Any, Final, Literal

import numpy as np

from collab.errors import CollabError, ModelError
from collab.graph.assemble import Assembled
from collab.graph.flat import Bytes, Span
from collab.graph.schema import FLATBUFFER_LIMIT, IDENTIFIER, schema

Weights = Literal["auto", "inline", "external"]

ALIGNMENT: Final = 16
"""``force_align`` of ``Buffer.data`` in schema.fbs."""

_ROOM_FOR_TABLES: Final = 64 << 20
_PLACEHOLDER: Final = 2
"""LiteRT takes an offset of 0 or 1 for "none", so a field with 2 is always written."""

_BUFFER_OFFSET: Final = 6
_OPTIONS_OFFSET: Final = 22
"""Vtable slots of ``Buffer.offset`` and ``Operator.large_custom_options_offset`` in schema.fbs."""


def write(stage: Assembled, data: Bytes, weights: Weights) -> bytes:
    """Write a stage.

    Args:
        stage: what to write; its byte ranges are ranges of `data`.
        data: the whole model's file.
        weights: ``inline`` inside the flatbuffer, ``external`` behind it, ``auto`` inside
            unless that would pass 2 GB.

    Raises:
        ModelError: the stage cannot be written, such as ``inline`` over 2 GB.
    """
    spans = [s for s in stage.buffers if s] + [s for _, _, s in stage.large_options]
    total = sum(size for _, size in spans)
    too_large = total > FLATBUFFER_LIMIT - _ROOM_FOR_TABLES
    if weights == "inline" and too_large:
        raise ModelError(f"{total} bytes of weights do not fit in a flatbuffer: use external weights")
    try:
        if weights == "external" or too_large:
            return _external(stage, data)
        return _pack(stage, data, external=False, size=total)
    except CollabError:
        raise
    except Exception as error:  # the generated packers raise whatever struct and numpy raise
        raise ModelError(
            f"the stage cannot be written ({error}): the model is corrupt, export it again"
        ) from error


def _pack(stage: Assembled, data: Bytes, *, external: bool, size: int) -> bytes:
    """Pack the object tree; with `external`, larger buffers get an offset to fill in."""
    tables = schema()
    model = stage.model
    model.buffers = []
    for span in stage.buffers:
        buffer: Any = tables.BufferT()
        if external and span is not None and span[1] >= ALIGNMENT:
            buffer.offset, buffer.size = _PLACEHOLDER, span[1]
        elif span is not None:
            buffer = InlineBuffer(data, span)
        model.buffers.append(buffer)
    for subgraph, operator, span in stage.large_options:
        table = model.subgraphs[subgraph].operators[operator]
        table.customOptions = None if external else _view(data, span)
        table.largeCustomOptionsOffset = _PLACEHOLDER if external else 0
        table.largeCustomOptionsSize = span[1] if external else 0
    builder = tables.flatbuffers.Builder(size + 65536)
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


def _external(stage: Assembled, data: Bytes) -> bytes:
    """Pack with the larger buffers behind the flatbuffer, each at a multiple of 16."""
    blob = bytearray(_pack(stage, data, external=True, size=0))
    root = schema().Model.GetRootAs(blob, 0)
    fields = [
        (root.Buffers(n), _BUFFER_OFFSET, s) for n, s in enumerate(stage.buffers) if s and s[1] >= ALIGNMENT
    ]
    fields += [(root.Subgraphs(s).Operators(o), _OPTIONS_OFFSET, span) for s, o, span in stage.large_options]
    at = -(-len(blob) // ALIGNMENT) * ALIGNMENT
    pieces: list[bytes | memoryview] = [b"\0" * (at - len(blob))]
    for accessor, slot, span in fields:
        struct.pack_into("<Q", blob, accessor._tab.Pos + accessor._tab.Offset(slot), at)
        padding = -span[1] % ALIGNMENT
        pieces += [memoryview(data)[span[0] : span[0] + span[1]], b"\0" * padding]
        at += span[1] + padding
    return b"".join((blob, *pieces))


class InlineBuffer:
    """Packs like the schema's ``BufferT``, but aligned as the schema demands."""

    def __init__(self, data: Bytes, span: Span) -> None:
        self.data, self.span = data, span

    def Pack(self, builder: Any) -> Any:
        """Write it."""
        tables = schema()
        builder.Prep(ALIGNMENT, self.span[1])
        vector = builder.CreateNumpyVector(_view(self.data, self.span))
        tables.BufferStart(builder)
        tables.BufferAddData(builder, vector)
        return tables.BufferEnd(builder)


def _view(data: Bytes, span: Span) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.frombuffer(data, np.uint8, count=span[1], offset=span[0])
