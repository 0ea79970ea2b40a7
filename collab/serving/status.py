"""One table from our errors to what HTTP and gRPC call them."""

from __future__ import annotations

from typing import Final, NamedTuple

from collab.errors import (
    CollabError,
    Conflict,
    DeadlineExceeded,
    InputError,
    LimitExceeded,
    NodeLost,
    NotLoaded,
    Overloaded,
    PeerError,
    RateLimited,
    Refused,
    Unauthenticated,
)


class Status(NamedTuple):
    """How one kind of error is told.

    Attributes:
        http: status of the answer.
        grpc: name of the status.
        again: whether the same request may be answered a little later.
    """

    http: int
    grpc: str
    again: bool = False


TABLE: Final[tuple[tuple[type[CollabError], Status], ...]] = (
    (Unauthenticated, Status(401, "UNAUTHENTICATED")),
    (LimitExceeded, Status(413, "RESOURCE_EXHAUSTED")),
    (Refused, Status(403, "PERMISSION_DENIED")),
    (NotLoaded, Status(404, "NOT_FOUND")),
    (InputError, Status(400, "INVALID_ARGUMENT")),
    (RateLimited, Status(429, "RESOURCE_EXHAUSTED", again=True)),
    (Overloaded, Status(503, "UNAVAILABLE", again=True)),
    (DeadlineExceeded, Status(504, "DEADLINE_EXCEEDED")),
    (NodeLost, Status(503, "UNAVAILABLE", again=True)),
    (PeerError, Status(503, "UNAVAILABLE", again=True)),
    (Conflict, Status(409, "ABORTED")),
    (CollabError, Status(500, "INTERNAL")),
)
"""The first that fits."""


def status_of(error: CollabError) -> Status:
    """How an error is told."""
    return next(status for kind, status in TABLE if isinstance(error, kind))


def one_line(error: CollabError) -> str:
    """Its message as clients get it."""
    return f"{error.code}: {' '.join(str(error).split())}"
