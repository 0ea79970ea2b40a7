"""A folder with the models that a plan ran, and their plans; for one process at a time.

A version is two files, ``NAME.tflite`` and ``NAME.plan.yaml``, which `collab deploy` takes as well.
Blocks on the disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec

from collab.core.plan import Plan
from collab.core.validate import decode_plan
from collab.errors import InputError
from collab.federated.disk import Folder, replace_file
from collab.graph import Graph, read_model
from collab.updates.store.lock import folder_lock

KEPT_VERSIONS: Final = 4
"""The one that runs included; older ones are removed."""
_LOCK: Final = "lock"
_MODEL, _PLAN = ".tflite", ".plan.yaml"


class VersionFolder:
    """One plan's."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    def locked(self) -> AbstractContextManager[None]:
        """For whoever deploys; raises `Conflict` while somebody else does."""
        return folder_lock(self.path, _LOCK, "another process deploys from it; try again")

    def put(self, name: str, plan: Plan, model: bytes) -> None:
        """Keep a version's files, durably."""
        disk = Folder(self.path)
        replace_file(disk, name + _MODEL, model)
        near = plan.replace(models=tuple(msgspec.structs.replace(m, path=name + _MODEL) for m in plan.models))
        # JSON is YAML as well.
        replace_file(disk, name + _PLAN, msgspec.json.format(msgspec.json.encode(near), indent=1))

    def plan(self, name: str) -> Plan:
        """A version's plan; its model's path is as seen from the folder.  Raises `InputError`."""
        path = self.path / (name + _PLAN)
        try:
            return decode_plan(path.read_bytes())
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}") from error

    def graph(self, name: str, signature: str | None) -> Graph:
        """A version's model; raises `ModelError`."""
        return read_model(self.model_path(name), signature=signature)

    def model_path(self, name: str) -> Path:
        """Where a version's model is."""
        return self.path / (name + _MODEL)

    def forget(self, prefix: str, kept: Collection[str]) -> None:
        """Remove versions whose names begin so, but for those that are kept."""
        files = {name + ending for name in kept for ending in (_MODEL, _PLAN)}
        disk = Folder(self.path)
        for name in disk.names():
            if name.startswith(prefix) and name not in files:
                disk.remove(name)


@asynccontextmanager
async def locked(folder: VersionFolder) -> AsyncIterator[None]:
    """`VersionFolder.locked`, beside the event loop."""
    with ExitStack() as stack:
        await asyncio.to_thread(stack.enter_context, folder.locked())
        yield
