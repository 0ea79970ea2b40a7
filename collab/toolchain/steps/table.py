"""The only table from names of steps to the functions that do them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, Final

from collab.errors import UsageError
from collab.toolchain.steps.work import Work

Function = Callable[[Work], Mapping[str, Any]]

STEPS: Final[Mapping[str, str]] = {
    "import-keras": "collab.toolchain.imports.from_keras:convert",
    "import-onnx": "collab.toolchain.imports.from_onnx:convert",
    "import-saved-model": "collab.toolchain.imports.from_saved_model:convert",
    "echo": "collab.toolchain.steps.work:echo",
    "tfmot": "collab.toolchain.compress.tfmot:step",
}
"""``module:function`` by name; the module is imported in the step's process only."""


def function_of(name: str) -> Function:
    """Import what does a step; raises `UsageError` for a name that is not in the table."""
    if name not in STEPS:
        raise UsageError(f"step {name}: there is none of that name; use one of {', '.join(sorted(STEPS))}")
    module, _, function = STEPS[name].partition(":")
    found: Function = getattr(importlib.import_module(module), function)
    return found
