"""Real processes, real sockets on loopback."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.grpc_runtime import grpc_runtime
from tests.integration.models import PATHS, Reference
from tests.integration.processes import NO_CONFIG, NodeProcess, running

__all__ = ["grpc_runtime"]


@pytest.fixture(autouse=True)
def no_settings_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the user has set must not reach the commands under test."""
    for name in os.environ:
        if name.startswith("COLLAB_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(NO_CONFIG))


@pytest.fixture(scope="session")
def references() -> dict[str, Reference]:
    """The models under test by name."""
    return {name: Reference.of(name) for name in PATHS}


@pytest.fixture(scope="session")
def digits(references: dict[str, Reference]) -> Reference:
    """The shipped float model, some held-out images and the whole model's answers."""
    return references["digits"]


@pytest.fixture(scope="module")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[NodeProcess]]:
    """Nodes a, b and c as a shell would start them, for all tests of a module."""
    folder: Path = tmp_path_factory.mktemp("trio")
    with running([NodeProcess(name, folder) for name in "abc"]) as nodes:
        yield nodes
