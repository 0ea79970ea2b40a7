"""What a lock file is made from, and the digest of it that the lock carries.

    python scripts/lock_inputs.py requirements core   # the input lines, for a resolver
    python scripts/lock_inputs.py digest core         # their SHA-256

Run from the repository's root.  Needs Python 3.11, or tomli.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

EXTRAS: dict[str, tuple[str, ...]] = {
    "core": (),
    "device": ("metrics", "serve", "tracing"),
    "dev": ("dev", "emulation", "updates"),
    "toolchain": ("dev", "emulation", "frontdoor", "toolchain", "updates"),
}
"""Extras that each lock holds beside the core dependencies and the build backend."""

FILES = {name: Path(f"requirements/{name}.in") for name in ("clients", "models", "onnx2tf")}
"""Locks of their own: ``clients`` for an environment of its own, the others without dependencies."""


def requirements(lock: str) -> list[str]:
    """The requirement lines that a lock is resolved from."""
    if lock in FILES:
        lines = FILES[lock].read_text("utf-8").splitlines()
        return [line for line in lines if line and not line.startswith("#")]
    pyproject = _pyproject()
    project = pyproject["project"]
    lines = [*pyproject["build-system"]["requires"], *project["dependencies"]]
    for extra in EXTRAS[lock]:
        lines += project["optional-dependencies"][extra]
    return lines


def digest(lock: str) -> str:
    """SHA-256 over everything in the repository that decides what a lock may hold."""
    inputs: dict[str, Any] = {"requirements": sorted(requirements(lock))}
    if lock not in FILES:
        pyproject = _pyproject()
        inputs["python"] = pyproject["project"]["requires-python"]
        inputs["uv"] = pyproject["tool"]["uv"]
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def _pyproject() -> dict[str, Any]:
    pyproject: dict[str, Any] = tomllib.loads(Path("pyproject.toml").read_text("utf-8"))
    return pyproject


def main() -> None:
    """Print the requirement lines or the digest of one lock."""
    what, lock = sys.argv[1:]
    print("\n".join(requirements(lock)) if what == "requirements" else digest(lock))


if __name__ == "__main__":
    main()
