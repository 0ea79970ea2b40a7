"""Packages of the ``toolchain`` extra, imported when they are used; a missing one is named."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from collab.errors import BackendError
from collab.toolchain.convert.quiet import quietly


def needed(module: str, remedy: str = "pip install 'collab[toolchain]'") -> Any:
    """Import a module.

    Raises:
        BackendError: it is not installed, or cannot be imported here.
    """
    package = module.partition(".")[0]
    # Read when they are imported. TensorFlow's greetings are of no use to anybody.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Else onnxruntime keeps a database of its use in the user's home, and tells its maker.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        if module in sys.modules:
            return sys.modules[module]
        with quietly():
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.partition(".")[0] != package:
            raise BackendError(f"{package} needs {error.name}, which is missing: {remedy}") from error
        raise BackendError(f"{package} is missing: {remedy}") from error
    except ImportError as error:
        reason = " ".join(str(error).split())[:160]
        raise BackendError(f"{package} is installed but cannot be imported: {reason}") from error
