"""Keeps gRPC's own descriptors open, so that tests do not seem to leak them.

gRPC opens its pollers with the first channel or server of a process and closes them,
some time later, with the last.  A ``conftest.py`` whose tests use gRPC imports the fixture.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import grpc
import grpc.aio
import pytest


@pytest.fixture(scope="session", autouse=True)
def grpc_runtime() -> Iterator[None]:
    """Hold one idle channel, which dials nobody, and the asyncio poller."""

    async def call(function):
        function()

    with grpc.insecure_channel("127.0.0.1:1"):
        asyncio.run(call(grpc.aio.init_grpc_aio))
        yield
        asyncio.run(call(grpc.aio.shutdown_grpc_aio))
