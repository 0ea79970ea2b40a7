"""Identifiers with types of their own, and the rule for names that people give."""

from __future__ import annotations

import re
from typing import Final, NewType

from collab.errors import InputError

NodeName = NewType("NodeName", str)
PlanName = NewType("PlanName", str)
StageId = NewType("StageId", str)
EdgeId = NewType("EdgeId", int)
"""Position of an edge in its plan's edge list."""
Epoch = NewType("Epoch", int)
"""Version of a deployed plan on the nodes; grows by one with each deployment."""
RequestId = NewType("RequestId", bytes)
"""16 random bytes, unique over all requesters."""
Attempt = NewType("Attempt", int)
Digest = NewType("Digest", str)
"""Lower-case hexadecimal SHA-256."""

REQUESTER: Final = StageId("@requester")
"""The pseudo-stage at both ends of a plan: it gives the input and takes the answer."""

_NAME = re.compile(r"[a-z0-9A-Z]([a-z0-9A-Z_.-]{0,61}[a-z0-9A-Z])?")
_DIGEST = re.compile(r"[0-9a-f]{64}")


def check_name(value: str, what: str) -> str:
    """Return ``value`` if it can name a node, plan or stage; else raise `InputError`."""
    if not _NAME.fullmatch(value):
        raise InputError(
            f"{what} {value[:70]!r}: use 1 to 63 letters, digits, '.', '_' or '-', "
            "starting and ending with a letter or digit"
        )
    return value


def check_digest(value: str, what: str) -> Digest:
    """Return ``value`` if it is a SHA-256 in lower-case hex; else raise `InputError`."""
    if not _DIGEST.fullmatch(value):
        raise InputError(f"{what} {value[:70]!r}: not a SHA-256 in lower-case hexadecimal")
    return Digest(value)
