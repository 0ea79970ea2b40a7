"""What the front door takes, and for how long it waits."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ServeLimits:
    """Bounds of one server.

    Attributes:
        body_bytes: of one request.
        held_bytes: of all requests that are read or answered; those over it are refused.
        connections: at a time, over HTTP.
        calls: under way at a time, over gRPC.
        header_bytes: of a request's line and headers.
        header_s: until the headers of a request are there, from the first byte of a connection.
        idle_s: between two requests of a connection.
        body_s: until a body is there, and a second more for each ``body_bytes_s``; the same for
            a client to take its answer.
        deadline_s: of a request that names none.
        stream_calls: of one stream, under way at a time.
    """

    body_bytes: int = 64 << 20
    held_bytes: int = 512 << 20
    connections: int = 512
    calls: int = 512
    header_bytes: int = 32 << 10
    header_s: float = 10.0
    idle_s: float = 75.0
    body_s: float = 20.0
    body_bytes_s: int = 64 << 10
    deadline_s: float = 30.0
    stream_calls: int = 32
