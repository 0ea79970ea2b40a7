"""A server over three real nodes, with the demo model and an ensemble of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import digits, no_settings_of_the_user, references, trio
from tests.integration.deployments import endpoints, with_alternatives
from tests.integration.ensembles import twins
from tests.integration.models import Reference
from tests.integration.processes import NodeProcess
from tests.integration.serving import ServeProcess, bring_up, plan_file

__all__ = ["digits", "no_settings_of_the_user", "references", "trio"]


@pytest.fixture(scope="module")
def door(
    trio: list[NodeProcess], digits: Reference, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServeProcess]:
    """`digits` over three nodes with alternatives, and `twins`, the mean of it on two of them."""
    folder: Path = tmp_path_factory.mktemp("door")
    made = [with_alternatives(digits, endpoints(trio)), twins(digits, "ab", "c", trio)]
    for plan, blobs in made:
        asyncio.run(bring_up(plan, blobs))
    with ServeProcess(folder, [plan_file(folder, plan) for plan, _ in made]) as server:
        yield server
