"""All settings of a node, with units."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

Bytes = Annotated[int, msgspec.Meta(gt=0)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=86_400)]


class NodeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of one node; the command line, ``COLLAB_*`` variables and a TOML file fill it."""

    name: str
    listen: tuple[str, ...] = ()
    """Addresses to accept links at."""
    join: tuple[str, ...] = ()
    """Addresses to dial and keep."""
    store: Path | None = None
    store_bytes: Bytes = 4 << 30
    max_tensor_bytes: Bytes = 64 << 20
    """Most that the tensors of one message may have."""
    insecure_networks: bool = False
    """Whether unencrypted links off loopback are allowed."""
    drain_s: Seconds = 10.0
    """How long requests may finish after SIGTERM."""
    reservation_s: Seconds = 30.0
    """How long a coordinator may take between reserving and committing."""
    retire_s: Seconds = 30.0
    """How long the previous epoch of a plan stays for requests under way."""
    max_epochs: Annotated[int, msgspec.Meta(ge=2)] = 4
    """Epochs of one plan in memory at a time."""
