"""Hosts as network namespaces: everything here needs root, TUN and nftables."""

from __future__ import annotations

import faulthandler

import pytest

from tests.grpc_runtime import grpc_runtime
from tests.integration.conftest import no_settings_of_the_user

__all__ = ["grpc_runtime", "no_settings_of_the_user"]


@pytest.fixture(autouse=True)
def no_dump_of_what_is_meant_to_take_long() -> None:
    """These tests take minutes; what hangs in them has deadlines of its own."""
    faulthandler.cancel_dump_traceback_later()
