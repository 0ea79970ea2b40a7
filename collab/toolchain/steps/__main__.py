"""The process of one step: ``python -m collab.toolchain.steps NAME FOLDER``."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from collab.errors import BackendError, CollabError
from collab.toolchain.keras_files import write_durably
from collab.toolchain.steps.runner import REQUEST, RESULT
from collab.toolchain.steps.table import function_of
from collab.toolchain.steps.work import Work


def main(name: str, folder: Path) -> int:
    """Do a step; the result, or its error, is written whole or not at all."""
    lines = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    # What libraries print is not for the one who reads progress.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def tell(what: str, done: int, total: int) -> None:
        print(json.dumps({"progress": [what, done, total]}), file=lines, flush=True)

    try:
        settings = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
        _write(folder, {"values": dict(function_of(name)(Work(settings, folder, tell)))})
    except CollabError as error:
        _write(folder, {"error": {"code": error.code, "message": str(error)}})
        return 1
    except ModuleNotFoundError as error:
        if (error.name or "collab").partition(".")[0] == "collab":
            raise
        traceback.print_exc()
        missing = BackendError(f"{error.name} is missing: pip install 'collab[toolchain]'")
        _write(folder, {"error": {"code": missing.code, "message": str(missing)}})
        return 1
    return 0


def _write(folder: Path, result: Mapping[str, Any]) -> None:
    write_durably(folder / RESULT, json.dumps(result).encode())


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], Path(sys.argv[2])))
