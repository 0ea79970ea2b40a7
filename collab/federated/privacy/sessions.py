"""Secure sums in bytes: what a link carries, on both ends.  Sans-IO.

The first message to a client is its invitation, the first answer its keys.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

from collab.errors import NotLoaded, ProtocolError
from collab.federated.privacy.masking import Invitation, Masking, decode_invitation
from collab.federated.privacy.messages import (
    FromServer,
    Inbox,
    Masked,
    decode_from_client,
    decode_from_server,
    encode,
)
from collab.federated.privacy.secure_client import SecureClient
from collab.federated.privacy.secure_server import Outcome, SecureServer
from collab.federated.privacy.statements import Sign, Verify
from collab.federated.update import Parameters


class ClientSession:
    """A client's part of one round's sum.  A message that is repeated gets the answer that it got."""

    def __init__(self, name: str, data: bytes, basis: Callable[[Masking], bytes], sign: Sign, verify: Verify):
        """Begin by an invitation; ``basis`` is what this client finds that it was asked for.

        Raises `ProtocolError` or `LimitExceeded` for what is no invitation, `ConfigError` or `Refused` for
        terms that hide nothing, or are about something else.
        """
        invitation = decode_invitation(data)
        self._masking = invitation.masking
        found = basis(self._masking)
        self._client = SecureClient(name, invitation.terms, basis=found, sign=sign, verify=verify)
        self._inbox: Inbox | None = None
        self._heard = hashlib.sha256(data).digest()
        self._said = encode(self._client.start())

    def again(self, data: bytes) -> bytes | None:
        """What was said to the last message, if this is that one."""
        return self._said if hashlib.sha256(data).digest() == self._heard else None

    def take(self, data: bytes) -> bytes:
        """The answer to a message; none to the shares of the others, which wait for the update.

        Raises `ProtocolError`, `LimitExceeded` or `Refused`; the client then says no more in this session.
        """
        message = decode_from_server(data, self._client.terms)
        if isinstance(message, Inbox) and self._client.expects is Inbox:
            self._inbox, said = message, b""
        else:
            said = encode(self._client.answer(message))
        self._heard, self._said = hashlib.sha256(data).digest(), said
        return said

    def masked(self, delta: Parameters, samples: int) -> bytes:
        """An update under all masks, once.

        Raises `NotLoaded` before the shares of the others are here and after it was made once,
        `TensorError` for an update that cannot be encoded, `ProtocolError` for one of another model.
        """
        if self._inbox is None:
            raise NotLoaded("secure aggregation: this client holds no keys of the round; it is left out")
        vector = self._masking.vector(delta, samples)
        if len(vector) != self._client.terms.length:
            raise ProtocolError(
                f"secure aggregation: the update has {len(vector)} numbers, the terms say "
                f"{self._client.terms.length}"
            )
        inbox, self._inbox = self._inbox, None
        self._client.contribute(vector)
        return encode(self._client.answer(inbox))


class ServerSession:
    """The server's part of one round's sum."""

    def __init__(self, invitation: Invitation, verify: Verify) -> None:
        """Raises `ConfigError` for terms under which the sum would not hide its terms."""
        self._server = SecureServer(invitation.terms, verify)
        self.invitation = invitation

    @property
    def waiting(self) -> frozenset[str]:
        """Clients that this phase has not heard of yet."""
        return self._server.waiting

    @property
    def outcome(self) -> Outcome | None:
        """After the last phase was closed."""
        return self._server.outcome

    def take(self, name: str, data: bytes) -> None:
        """Take a client's message; raises `ProtocolError` or `LimitExceeded`."""
        self._server.receive(name, decode_from_client(data, self.invitation.terms))

    def check_masked(self, name: str, data: bytes) -> None:
        """Raise `ProtocolError` or `LimitExceeded` unless `take` would take this vector now."""
        message = decode_from_client(data, self.invitation.terms)
        if not isinstance(message, Masked):
            raise ProtocolError(f"secure aggregation: client {name!r} sent no masked vector")
        if self._server.expects is not Masked or name not in self._server.waiting:
            raise ProtocolError(f"secure aggregation: no vector of client {name!r} is due")
        if len(message.vector) != self.invitation.terms.vector_bytes:
            raise ProtocolError(
                f"secure aggregation: client {name!r} sent {len(message.vector)} bytes of "
                f"{self.invitation.terms.vector_bytes}"
            )

    def close(self) -> dict[str, bytes]:
        """End the phase; what to send to whom next.  Raises `Refused`: the session is over then."""
        return _encoded(self._server.close())


def _encoded(replies: Mapping[str, FromServer]) -> dict[str, bytes]:
    """Bytes by client; what all get is written once."""
    written: dict[int, bytes] = {}
    for reply in replies.values():
        if id(reply) not in written:
            written[id(reply)] = encode(reply)
    return {name: written[id(reply)] for name, reply in replies.items()}
