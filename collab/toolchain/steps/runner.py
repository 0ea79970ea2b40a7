"""Starts a step's process, hands on its progress, and brings back values or its error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from collab.errors import BackendError, from_wire
from collab.toolchain.steps.work import Progress

REQUEST: Final = "request.json"
RESULT: Final = "result.json"
LOG: Final = "log.txt"
"""What the libraries of a step print; kept, since it says why a step ended early."""
MAX_LINE: Final = 4096
"""Characters of a line of progress; longer ones are a library's and are left out."""

_QUIET: Final = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "TF_ENABLE_ONEDNN_OPTS": "0"}


@dataclass(frozen=True)
class Result:
    """The values that a step gave, and the folder with the files that it made."""

    values: Mapping[str, Any]
    folder: Path


def run_step(
    name: str, settings: Mapping[str, Any], folder: Path, progress: Progress | None = None
) -> Result:
    """Run a step in a process of its own and wait for it; that process never outlives the call.

    Args:
        name: of `table.STEPS`.
        settings: JSON's types only; paths as text, absolute or within ``folder``.
        folder: for its files; made where it is missing.
        progress: told what the step tells.

    Raises:
        CollabError: What the step raised, of the same class.
        BackendError: A library that it needs is missing, or its process ended without a result.
    """
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RESULT).unlink(missing_ok=True)
    (folder / REQUEST).write_text(json.dumps(dict(settings)) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "collab.toolchain.steps", name, str(folder)]
    with open(folder / LOG, "wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            errors="replace",
            env=_environment(),
        )
        try:
            assert process.stdout is not None
            for line in process.stdout:
                _tell(line, progress)
            code = process.wait()
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
    return _result(name, folder, code)


def _environment() -> Mapping[str, str]:
    # The package may be run from a checkout that is not installed.
    root = str(Path(__file__).parents[3])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**_QUIET, **os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _tell(line: str, progress: Progress | None) -> None:
    if progress is None or len(line) > MAX_LINE:
        return
    try:
        what, done, total = json.loads(line)["progress"]
        progress(str(what), int(done), int(total))
    except (ValueError, TypeError, KeyError):
        # Libraries print to standard output too.
        return


def _result(name: str, folder: Path, code: int) -> Result:
    try:
        found = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        reason = " (out of memory?)" if code == -9 else ""
        raise BackendError(
            f"step {name}: its process ended without a result, {how}{reason}: {last_line(folder / LOG)}"
        ) from error
    if "error" in found:
        raise from_wire(found["error"]["code"], found["error"]["message"])
    return Result(found["values"], folder)


def last_line(log: Path) -> str:
    """The last line of a log that says something."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "it printed nothing")
