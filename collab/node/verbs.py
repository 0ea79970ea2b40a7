"""The control verbs: who may call them and what they take; the same over links and gRPC."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.message import DecodeError, Message

from collab.codec.verbs import VERBS
from collab.core.ids import NodeName
from collab.errors import ProtocolError, Refused

log = logging.getLogger("collab.node")


@dataclass(frozen=True)
class Caller:
    """Who calls: the peer's name and role."""

    name: NodeName
    role: str


_ANYONE: Final = frozenset({"node", "client", "operator", "controller"})
_CLIENT: Final = frozenset({"client", "operator"})
_OPERATOR: Final = frozenset({"operator"})

TRAINING_VERBS: Final = frozenset(
    {"GetBlob", "DescribeTraining", "OfferTraining", "BeginTraining", "TrainingStatus", "EndTraining"}
)
"""Of federated runs; a node may call them as a gateway, where the settings of the one called name it."""

ROLES: Final[Mapping[str, frozenset[str]]] = {
    "Describe": _ANYONE | {"stream"},
    "Probe": _ANYONE,
    "Status": _ANYONE,
    # Streams: of plans that have one of their node's alone.
    "GetPlan": _CLIENT | {"stream"},
    "Lease": _CLIENT | {"stream"},
    "PutRevocations": frozenset({"operator", "controller"}),
    "TakeReports": frozenset({"operator", "controller"}),
    "PutBlob": frozenset({"operator", "node"}),
    **dict.fromkeys(TRAINING_VERBS, frozenset({"operator", "controller", "node"})),
    # Not for gateways: they would unmask their part of a cohort.
    "MaskTraining": frozenset({"operator", "controller"}),
    "Observe": _CLIENT,
    "GetTrial": frozenset({"client", "operator", "controller"}),
    "Condition": frozenset({"operator", "controller"}),
    "Feedback": _CLIENT,
    "GetReleaseFile": _ANYONE,
}
"""Roles that may call a verb; verbs that are not listed are the operator's."""

Implementation = Callable[[Caller, Any], Awaitable[Message]]


class Dispatcher:
    """Decodes a call, checks the caller's role, and runs the implementation."""

    def __init__(self, implementations: Mapping[str, Implementation]) -> None:
        missing = VERBS.keys() ^ implementations.keys()
        assert not missing, missing
        self._implementations = implementations

    async def call(self, caller: Caller, name: str, body: bytes | memoryview) -> bytes:
        """Serialised reply of a verb; raises `Refused`, `ProtocolError`, or what the verb raises."""
        verb = VERBS.get(name)
        if verb is None:
            raise ProtocolError(f"verb {name[:40]!r} is not known here; upgrade the older end")
        roles = ROLES.get(name, _OPERATOR)
        if caller.role not in roles:
            allowed = ", ".join(sorted(roles))
            refusal = f"{name}: {caller.name!r} is a {caller.role or 'stranger'}; only {allowed} may call it"
            log.warning("a call is refused: %s", refusal)
            raise Refused(refusal)
        try:
            request = verb.request.FromString(bytes(body))
        except (DecodeError, UnicodeDecodeError) as error:
            raise ProtocolError(f"{name}: the request cannot be read") from error
        return (await self._implementations[name](caller, request)).SerializeToString()
