"""What the requester's state machine asks its caller to do."""

from __future__ import annotations

from typing import Any, Union

import msgspec

from collab.core.ids import Attempt, NodeName, RequestId
from collab.core.token import Fault, Hop, Token


class Send(msgspec.Struct, frozen=True, gc=False):
    """Hand a token to the link with a peer: a node, or the requester by its name."""

    peer: NodeName
    token: Token


class Answer(msgspec.Struct, frozen=True, gc=False):
    """What a request got."""

    payload: Any
    """Tensors by name, opaque here; None if the answer is ``absent``."""
    hops: tuple[Hop, ...]
    """Work on the critical path."""
    path: tuple[NodeName, ...]
    """The node that ran each stage, by stage index."""
    attempt: Attempt
    absent: str | None = None
    """Why there is no value, when a guard or a quorum kept it back."""
    attempts: int = 1
    """How many were started, this one included."""
    hedged: bool = False
    """Whether one of them was started because an earlier one took long."""


class Tried(msgspec.Struct, frozen=True, gc=False):
    """One attempt that is over, for a trace."""

    number: Attempt
    start_us: int
    end_us: int
    route: tuple[NodeName, ...]
    fault: str | None = None
    """Why it failed, or was given up; None for one that answered."""


class Resolve(msgspec.Struct, frozen=True, gc=False):
    """End a request; comes exactly once for each."""

    request: RequestId
    outcome: Answer | Fault
    attempts: int = 1
    """How many were started for it here."""
    tried: tuple[Tried, ...] = ()
    """Those of a request with a trace."""


Action = Union[Send, Resolve]
