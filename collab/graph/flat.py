"""A .tflite file taken apart: plain records with every index checked, nothing concluded yet."""

from __future__ import annotations

import dataclasses
from typing import Any

Bytes = bytes | memoryview
Span = tuple[int, int]
"""Start and size in bytes of a range of the file."""


@dataclasses.dataclass(frozen=True)
class FlatOperator:
    """One operator; tensors and subgraphs are indices, -1 is an absent tensor."""

    name: str
    code: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    intermediates: tuple[int, ...]
    subgraphs: tuple[int, ...]
    custom: bool
    large_options: Span | None
    table: Any


@dataclasses.dataclass(frozen=True)
class FlatSubgraph:
    """One subgraph; `tensors` are the schema's ``TensorT``."""

    name: bytes | None
    tensors: tuple[Any, ...]
    operators: tuple[FlatOperator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class FlatSignature:
    """One signature; the maps are (name, tensor) in file order."""

    key: str
    subgraph: int
    inputs: tuple[tuple[str, int], ...]
    outputs: tuple[tuple[str, int], ...]


@dataclasses.dataclass(frozen=True)
class FlatModel:
    """A whole file; `buffers` are byte ranges of `data`, None where there is none."""

    data: Bytes
    version: int
    description: bytes | None
    codes: tuple[Any, ...]
    subgraphs: tuple[FlatSubgraph, ...]
    buffers: tuple[Span | None, ...]
    metadata: tuple[tuple[bytes, int], ...]
    signatures: tuple[FlatSignature, ...]
