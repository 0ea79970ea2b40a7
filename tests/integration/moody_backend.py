"""LiteRT whose stages misbehave where a file says so by their digest; nodes find it by an entry point.

The file that ``MOODS`` in the environment names is a JSON object from the SHA-256 of a stage to ``KIND`` or
``KIND:RUNS``, after how many runs in a process it begins: ``slow`` computes all twice, ``raise`` fails,
``nan`` answers so, ``abort`` ends the process as native code would.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from collab.codec.tensors import Array
from collab.errors import BackendError
from collab.runtime.base import Backend, LoadedStage, RuntimeClass
from collab.runtime.litert import LiteRT

NAME = "moody"
ENTRY_POINTS = f"[collab.backends]\n{NAME} = tests.integration.moody_backend:Moody\n"


class _MoodyStage(LoadedStage):
    def __init__(self, stage: LoadedStage, mood: str) -> None:
        self._stage = stage
        self.inputs, self.outputs = stage.inputs, stage.outputs
        self._kind, _, runs = mood.partition(":")
        self._left = int(runs or 0)

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        made = self._stage.run(inputs)
        if self._left > 0:
            self._left -= 1
            return made
        if self._kind == "slow":
            return self._stage.run(inputs)
        if self._kind == "raise":
            raise BackendError("the stage is in a bad mood")
        if self._kind == "abort":
            os.abort()
        if self._kind == "nan":
            return [np.full_like(array, np.nan) for array in made]
        return made

    def close(self) -> None:
        self._stage.close()


class Moody(Backend):
    """The back end."""

    name = NAME

    def __init__(self) -> None:
        self._litert = LiteRT()

    def runtime_class(self) -> RuntimeClass:
        """LiteRT's."""
        return self._litert.runtime_class()

    def load(self, model: Path | bytes, threads: int) -> LoadedStage:
        """A stage in whatever mood the file says."""
        data = model if isinstance(model, bytes) else model.read_bytes()
        try:
            moods: dict[str, str] = json.loads(Path(os.environ["MOODS"]).read_text("utf-8"))
        except FileNotFoundError:
            moods = {}
        return _MoodyStage(
            self._litert.load(model, threads), moods.get(hashlib.sha256(data).hexdigest(), "good")
        )


def install(folder: Path) -> dict[str, str]:
    """Make an installed package of a folder; the environment in which nodes find it and its file of moods."""
    info = folder / "collab_test_moody-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: collab-test-moody\nVersion: 1\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    root = Path(__file__).parents[2]
    return {"PYTHONPATH": f"{root}:{folder}", "MOODS": str(folder / "moods.json")}
