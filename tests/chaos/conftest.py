"""Hosts as network namespaces: everything here needs root, TUN and nftables."""

from __future__ import annotations

from tests.grpc_runtime import grpc_runtime
from tests.integration.conftest import no_settings_of_the_user

__all__ = ["grpc_runtime", "no_settings_of_the_user"]
