"""The generated .tflite schema, loaded late, and what this package knows about its enums."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from collab.errors import BackendError

IDENTIFIER: Final = b"TFL3"
"""``file_identifier`` of schema.fbs, bytes 4 to 8 of every file."""

FLATBUFFER_LIMIT: Final = 2**31 - 1
"""Flatbuffer offsets are signed 32 bit, so one buffer ends here."""

DTYPES: Final[Mapping[int, str]] = MappingProxyType(
    {
        0: "float32",
        1: "float16",
        2: "int32",
        3: "uint8",
        4: "int64",
        5: "string",
        6: "bool",
        7: "int16",
        8: "complex64",
        9: "int8",
        10: "float64",
        11: "complex128",
        12: "uint64",
        13: "resource",
        14: "variant",
        15: "uint32",
        16: "uint16",
        17: "int4",
        18: "bfloat16",
        19: "int2",
        20: "uint4",
        21: "float8_e4m3fn",
        22: "float8_e5m2",
    }
)
"""``enum TensorType`` of schema.fbs; those that numpy has carry numpy's names."""

INT8: Final = 9

STATE_DTYPES: Final = frozenset({"resource", "variant"})

CUSTOM_CODE: Final = 32
PLACEHOLDER_CODE: Final = 127
"""``PLACEHOLDER_FOR_GREATER_OP_CODES``: the old 8-bit field's way to say "look at the new one"."""

SUBGRAPH_FIELDS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "CallOptionsT": ("subgraph",),
        "CallOnceOptionsT": ("initSubgraphIndex",),
        "IfOptionsT": ("thenSubgraphIndex", "elseSubgraphIndex"),
        "WhileOptionsT": ("condSubgraphIndex", "bodySubgraphIndex"),
        "StableHLOCompositeOptionsT": ("decompositionSubgraphIndex",),
        "StablehloWhileOptionsT": ("condSubgraphIndex", "bodySubgraphIndex"),
        "StablehloReduceOptionsT": ("bodySubgraphIndex",),
        "StablehloReduceWindowOptionsT": ("bodySubgraphIndex",),
        "StablehloSortOptionsT": ("comparatorSubgraphIndex",),
        "StablehloScatterOptionsT": ("updateComputationSubgraphIndex",),
        "StablehloCaseOptionsT": ("branchSubgraphIndices",),
    }
)
"""Fields of option tables that name subgraphs."""


@functools.cache
def schema() -> Any:
    """Return the module ``ai_edge_litert.schema_py_generated``.

    Raises:
        BackendError: it is not installed (``tflite_runtime`` has no schema).
    """
    try:
        return importlib.import_module("ai_edge_litert.schema_py_generated")
    except ImportError as error:
        raise BackendError(
            "reading and splitting models needs ai-edge-litert: pip install ai-edge-litert "
            "(tflite_runtime can only run stages; split on another machine)"
        ) from error


@functools.cache
def operator_names() -> Mapping[int, str]:
    """Builtin operator names of the installed schema by their code."""
    known = vars(schema().BuiltinOperator)
    return {code: name for name, code in known.items() if isinstance(code, int)}


@functools.cache
def field_count(table: str) -> int:
    """How many fields the installed schema knows in a table."""

    class Probe:
        fields = 0

        def StartObject(self, fields: int) -> None:
            self.fields = fields

    probe = Probe()
    getattr(schema(), f"{table}Start")(probe)
    return probe.fields
