"""Every exception that leaves this package, grouped by who is at fault.

Each class carries a stable ``code`` that travels over the wire and an
``exit_code`` for the command line (0 done, 1 failed, 2 usage, 3 a peer could not
be reached, 4 refused by security or policy).  Messages are one line, name the
field, and say what to do next.
"""

from __future__ import annotations

from typing import ClassVar


class CollabError(Exception):
    """Base of all errors of this package."""

    code: ClassVar[str] = "internal"
    exit_code: ClassVar[int] = 1
    attempts: int = 0
    """How many were started at the request that it ended."""


# --- the caller's fault ------------------------------------------------------


class InputError(CollabError):
    """Something the user gave cannot be used."""

    code = "input"


class UsageError(InputError):
    """A command-line argument or option has an unusable value."""

    code = "usage"
    exit_code = 2


class ConfigError(InputError):
    """A configuration file or variable is wrong."""

    code = "config"
    exit_code = 2


class ModelError(InputError):
    """A model file is missing, broken, or uses something unsupported."""

    code = "model"


class CutError(ModelError):
    """A model cannot be cut where it was asked to be."""

    code = "cut"


class PlanError(InputError):
    """A plan is inconsistent; the message starts with the field's path."""

    code = "plan"


class TensorError(InputError):
    """A tensor has the wrong name, dtype, rank or shape."""

    code = "tensor"


# --- a request that could not be answered ------------------------------------


class RequestError(CollabError):
    """One inference failed; other requests are not affected."""

    code = "request"


class DeadlineExceeded(RequestError):
    """The request's time budget ran out."""

    code = "deadline"


class Overloaded(RequestError):
    """No credit is free, or no answer could come in time; try again later or lower the load."""

    code = "overloaded"


class RateLimited(Overloaded):
    """A client asks more often than it may; it may ask again later."""

    code = "rate_limited"


class StageFailed(RequestError):
    """A stage raised while it computed; names the node and the stage."""

    code = "stage_failed"


class NodeLost(RequestError):
    """A node went away while it held the request; names the node and the stage."""

    code = "node_lost"
    exit_code = 3


class NotLoaded(RequestError):
    """The named plan and epoch are not loaded on this node."""

    code = "not_loaded"


class Cancelled(RequestError):
    """The requester withdrew the request."""

    code = "cancelled"


# --- the peer's or the network's fault ---------------------------------------


class PeerError(CollabError):
    """A peer or the way to it misbehaves."""

    code = "peer"


class PeerUnreachable(PeerError):
    """No connection to a peer could be made."""

    code = "unreachable"
    exit_code = 3


class LinkLost(PeerError):
    """An established link broke."""

    code = "link_lost"
    exit_code = 3


class ProtocolError(PeerError):
    """A peer sent something that the protocol forbids."""

    code = "protocol"


class RemoteError(PeerError):
    """A peer reported an error of a kind that this version does not know."""

    code = "remote"


# --- refused -----------------------------------------------------------------


class Refused(CollabError):
    """Security or policy forbids it."""

    code = "refused"
    exit_code = 4


class Unauthenticated(Refused):
    """Who asks did not say who it is, or not in a way that can be believed."""

    code = "unauthenticated"


class LimitExceeded(Refused):
    """A configured bound would be passed; names the bound."""

    code = "limit"


class Conflict(CollabError):
    """Somebody else changed the same thing first; nothing was changed here."""

    code = "conflict"


# --- the device's fault ------------------------------------------------------


class StoreError(CollabError):
    """The model store cannot hold or return a blob."""

    code = "store"


class IntegrityError(StoreError):
    """Stored bytes do not match their digest."""

    code = "integrity"


class BackendError(CollabError):
    """A runtime is missing or cannot load a stage."""

    code = "backend"


def _subclasses(cls: type[CollabError]) -> list[type[CollabError]]:
    return [cls, *(leaf for sub in cls.__subclasses__() for leaf in _subclasses(sub))]


BY_CODE: dict[str, type[CollabError]] = {cls.code: cls for cls in _subclasses(CollabError)}
"""Error classes by their wire code."""


def from_wire(code: str, message: str) -> CollabError:
    """Rebuild an error that a peer reported; unknown codes become `RemoteError`."""
    return BY_CODE.get(code, RemoteError)(message)
