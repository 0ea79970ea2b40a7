"""What the requester's state machine asks its caller to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Union

from collab.core.ids import Attempt, NodeName, RequestId
from collab.core.token import Fault, Hop, Token


@dataclass(frozen=True, slots=True)
class Send:
    """Hand a token to the link with a peer: a node, or the requester by its name."""

    peer: NodeName
    token: Token


@dataclass(frozen=True, slots=True)
class Answer:
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


@dataclass(frozen=True, slots=True)
class Resolve:
    """End a request; comes exactly once for each."""

    request: RequestId
    outcome: Answer | Fault


Action = Union[Send, Resolve]
